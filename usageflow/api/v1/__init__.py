"""The routes under `/api/v1`, a module for each noun: they read a request, call a room, answer."""
