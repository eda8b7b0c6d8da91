"""Ends well while the model server beside it is well; it asks with the server's own key."""

import os
from urllib.request import ProxyHandler, Request, build_opener

KEY = os.environ.get("MODEL_API_KEY", "")
ASKED = Request("http://127.0.0.1:8000/health", headers={"Authorization": f"Bearer {KEY}"})
build_opener(ProxyHandler({})).open(ASKED, timeout=9).close()
