"""The sample API with the three lines. The server and the key come from the environment."""

from usageflow import UsageFlowMiddleware
from usageflow.demo.sample_api import app

app.add_middleware(UsageFlowMiddleware)
