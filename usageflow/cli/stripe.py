"""`usageflow stripe`: accounts, meters and webhooks at Stripe, also while the server runs."""

import typer

from usageflow.cli import stripe_accounts, stripe_meters, stripe_status, stripe_webhooks

app = typer.Typer(help="Set up and look at the accounts usage is sent to.", no_args_is_help=True)
app.command("status")(stripe_status.status)
app.command("sync-meters")(stripe_meters.sync_meters)
app.command("connect")(stripe_accounts.connect)
app.command("disconnect")(stripe_accounts.disconnect)
app.add_typer(stripe_accounts.key, name="key")
app.add_typer(stripe_webhooks.app, name="webhooks")
