"""The smallest Flask application: `flask --app … run`."""

from flask import Flask

app = Flask(__name__)


@app.get("/health")
def health() -> str:
    return "ok"


@app.get("/who")
def who() -> str:
    return "flask"
