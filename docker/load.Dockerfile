# syntax=docker/dockerfile:1.7
# Locust with Headgate's load tests. Build from the repository's root:
#   docker build -f docker/load.Dockerfile -t headgate-load .

FROM python:3.11.13-slim-bookworm AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1
RUN python -m venv /opt/headgate
WORKDIR /src
COPY constraints.txt pyproject.toml setup.py MANIFEST.in README.md LICENSE ./
COPY gateway gateway
COPY backends backends
RUN HEADGATE_NATIVE=0 /opt/headgate/bin/pip install -c constraints.txt '.[load]'

FROM python:3.11.13-slim-bookworm
RUN groupadd --system --gid 10003 load \
 && useradd --system --uid 10003 --gid 10003 --no-create-home --home-dir /load load
COPY --from=build /opt/headgate /opt/headgate
COPY loadtests /load/loadtests
ENV PATH=/opt/headgate/bin:$PATH PYTHONDONTWRITEBYTECODE=1 HOME=/tmp MPLCONFIGDIR=/tmp
USER 10003:10003
WORKDIR /load
EXPOSE 8089
HEALTHCHECK --interval=10s --timeout=3s --start-period=20s --retries=3 \
  CMD ["python", "-c", "import urllib.request as u; u.urlopen('http://127.0.0.1:8089/', timeout=2)"]
ENTRYPOINT ["locust", "-f", "loadtests/locustfile.py"]
CMD ["--host", "http://gateway:8080"]
