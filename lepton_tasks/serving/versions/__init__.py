"""Which version answers: deployment, rollouts, rollback, the processes of one server."""
