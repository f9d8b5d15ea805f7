import pytest
import torch


@pytest.fixture(autouse=True)
def _needs_cuda(request: pytest.FixtureRequest) -> None:
    if not torch.cuda.is_available() and request.path.stem != "test_kernels":  # which Triton's interpreter can run
        pytest.skip("no CUDA device")
