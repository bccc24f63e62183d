"""The tables, the sessions and the migrations: one schema for SQLite and PostgreSQL."""
