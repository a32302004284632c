"""What all vendors' modules share: calls, credentials, errors, inputs, and the life of a job."""
