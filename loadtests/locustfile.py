"""A load test of any model behind the gateway, in any dialect over HTTP.

    locust -f loadtests/locustfile.py --host http://127.0.0.1:8080                  the demo's digits
    locust -f loadtests/locustfile.py --host URL --model MODEL --api-key KEY        a model of yours
           --dialect kserve-v2 --rows 8 --input rows.npy --headless -u 20 -t 1m     all flags: README.md

The users learn what the model takes from its metadata; without --input the tensors are random. Every answer
is checked (users/judging.py), a 429 is counted as "throttled". Each flag has an environment variable,
HEADGATE_LOAD_MODEL and so on.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # locust runs this file as a script

from loadtests.users.http import KServeV2User, TensorFlowServingUser

__all__ = ["KServeV2User", "TensorFlowServingUser"]
