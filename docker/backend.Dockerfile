# syntax=docker/dockerfile:1.7
# The reference model server on ONNX Runtime, CPU. Build from the repository's root:
#   docker build -f docker/backend.Dockerfile -t headgate-backend .
# The digits models are in the image; mount another repository at /models to serve yours.

FROM python:3.11.13-slim-bookworm AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1
RUN python -m venv /opt/headgate
WORKDIR /src
COPY constraints.txt pyproject.toml setup.py MANIFEST.in README.md LICENSE ./
COPY gateway gateway
COPY backends backends
RUN HEADGATE_NATIVE=0 /opt/headgate/bin/pip install -c constraints.txt '.[serve]'

FROM python:3.11.13-slim-bookworm
RUN groupadd --system --gid 10002 backend \
 && useradd --system --uid 10002 --gid 10002 --no-create-home --home-dir /models backend
COPY --from=build /opt/headgate /opt/headgate
COPY backends/models /models
ENV PATH=/opt/headgate/bin:$PATH PYTHONDONTWRITEBYTECODE=1
USER 10002:10002
WORKDIR /models
EXPOSE 8500
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=5s --timeout=3s --start-period=20s --retries=3 \
  CMD ["python", "-c", "import urllib.request as u; u.urlopen('http://127.0.0.1:8500/v2/health/ready', timeout=2)"]
ENTRYPOINT ["python", "-m", "backends"]
CMD ["serve", "--repository", "/models", "--address", "0.0.0.0:8500"]
