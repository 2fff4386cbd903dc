"""The smallest FastAPI application: `uvicorn fastapi_app:app`."""

from fastapi import FastAPI
from fastapi.responses import PlainTextResponse

app = FastAPI()


@app.get("/health", response_class=PlainTextResponse)
def health() -> str:
    return "ok"


@app.get("/who", response_class=PlainTextResponse)
def who() -> str:
    return "fastapi"
