"""Reading foreign weight files safely, and matching their tensors to ours."""
