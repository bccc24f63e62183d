"""The metered reverse proxy behind `usageflow proxy`; see the README of this room."""
