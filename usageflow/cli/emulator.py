"""`usageflow stripe-emulator`: the stateful fake of Stripe's metering API, on its own."""

from typing import Annotated

import typer


def stripe_emulator(
    host: Annotated[str, typer.Option(help="address to listen on")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="port to listen on")] = 12111,
    limits: Annotated[
        bool, typer.Option("--limits", help="refuse calls beyond Stripe's rate limits")
    ] = False,
) -> None:
    """Run the Stripe emulator, for tests and trials."""
    from usageflow.stripe.emulator.serve import run

    run(host, port, limits=limits)
