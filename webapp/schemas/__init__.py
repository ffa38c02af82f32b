"""What goes into the API and what comes out; the OpenAPI document is made from these."""
