# syntax=docker/dockerfile:1.7
# The reference model server on ONNX Runtime with CUDA 12 and cuDNN 9. Build from the repository's root:
#   docker build -f docker/backend-cuda.Dockerfile -t headgate-backend:cuda .
# Run with --gpus all and the NVIDIA Container Toolkit. `--device cuda` makes a missing GPU an error at the
# start; without it the server takes the CPU and says so in its log and in headgate_backend_model_info.
#
# onnxruntime-gpu is a distribution of its own beside onnxruntime (both install the module `onnxruntime`), so
# the extra `serve` is left out and its version is written here, not in constraints.txt: 1.23.2 is built for
# CUDA 12, the newest ones for CUDA 13. The base image, its CUDA and this version move together.

FROM nvidia/cuda:12.6.3-cudnn-runtime-ubuntu24.04 AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1
RUN apt-get update \
 && apt-get install --no-install-recommends --yes python3 python3-venv \
 && rm -rf /var/lib/apt/lists/* \
 && python3 -m venv /opt/headgate
WORKDIR /src
COPY constraints.txt pyproject.toml setup.py MANIFEST.in README.md LICENSE ./
COPY gateway gateway
COPY backends backends
RUN HEADGATE_NATIVE=0 /opt/headgate/bin/pip install -c constraints.txt . onnxruntime-gpu==1.23.2

FROM nvidia/cuda:12.6.3-cudnn-runtime-ubuntu24.04
RUN apt-get update \
 && apt-get install --no-install-recommends --yes python3 \
 && rm -rf /var/lib/apt/lists/* \
 && groupadd --system --gid 10002 backend \
 && useradd --system --uid 10002 --gid 10002 --no-create-home --home-dir /models backend
COPY --from=build /opt/headgate /opt/headgate
COPY backends/models /models
ENV PATH=/opt/headgate/bin:$PATH PYTHONDONTWRITEBYTECODE=1
USER 10002:10002
WORKDIR /models
EXPOSE 8500
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=5s --timeout=3s --start-period=60s --retries=3 \
  CMD ["python", "-c", "import urllib.request as u; u.urlopen('http://127.0.0.1:8500/v2/health/ready', timeout=2)"]
ENTRYPOINT ["python", "-m", "backends"]
CMD ["serve", "--repository", "/models", "--address", "0.0.0.0:8500", "--device", "cuda"]
