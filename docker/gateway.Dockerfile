# syntax=docker/dockerfile:1.7
# The gateway. Build from the repository's root:
#   docker build -f docker/gateway.Dockerfile -t headgate .
# Runs as uid 10001 and writes nothing outside /var/lib/headgate and /tmp, so the root may be read-only.

FROM python:3.11.13-slim-bookworm AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1
RUN apt-get update \
 && apt-get install --no-install-recommends --yes gcc libc6-dev \
 && rm -rf /var/lib/apt/lists/*
RUN python -m venv /opt/headgate
WORKDIR /src
COPY constraints.txt pyproject.toml setup.py MANIFEST.in README.md LICENSE ./
COPY gateway gateway
COPY backends backends
# The compiled form, or no image: HEADGATE_NATIVE=0 builds the pure one.
ARG HEADGATE_NATIVE=1
RUN HEADGATE_NATIVE=$HEADGATE_NATIVE /opt/headgate/bin/pip install -c constraints.txt '.[otlp]'

FROM python:3.11.13-slim-bookworm
RUN groupadd --system --gid 10001 headgate \
 && useradd --system --uid 10001 --gid 10001 --no-create-home --home-dir /var/lib/headgate headgate \
 && install -d -o 10001 -g 10001 -m 0750 /var/lib/headgate
COPY --from=build /opt/headgate /opt/headgate
ENV PATH=/opt/headgate/bin:$PATH PYTHONDONTWRITEBYTECODE=1
USER 10001:10001
WORKDIR /var/lib/headgate
EXPOSE 8080 9080
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=5s --timeout=3s --start-period=10s --retries=3 \
  CMD ["python", "-c", "import urllib.request as u; u.urlopen('http://127.0.0.1:9080/healthz', timeout=2)"]
ENTRYPOINT ["headgate"]
CMD ["serve", "--policies", "/etc/headgate/policies", "--http", "0.0.0.0:8080", "--admin-listen", "0.0.0.0:9080"]
