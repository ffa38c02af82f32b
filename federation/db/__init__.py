"""The database of the registry and the ledger: SQLite by default, PostgreSQL by URL.

In: a URL. Out: connections, transactions, the tables (``tables``), their revisions (``migrations``), and the
statements of the hot path (``statements``, ``shared``).
"""
