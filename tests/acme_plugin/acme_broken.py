"""Cannot be imported, on purpose: the host must name it and go on."""

import acme_dependency_that_does_not_exist  # noqa: F401
