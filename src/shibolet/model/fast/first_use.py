"""What a GPU takes seconds for at first, whatever the model: the libraries of transforms, products and convolutions."""

import torch
import torch.nn.functional as F

_WIDTH = 64


def use_libraries(index: int) -> None:
    """Compute a little of everything that a step has on this GPU, which takes some 0.7 GiB of it from then on."""
    if not torch.cuda.is_available():
        return
    import shibolet.model.fast.triton_kernels  # noqa: F401  it loads Triton's runtime

    device = torch.device("cuda", index)
    window = torch.hann_window(400, device=device)
    samples = torch.zeros(16000, device=device)
    spectrum = torch.stft(samples, 400, 160, window=window, center=False, return_complex=True).abs().square()
    (torch.zeros(_WIDTH, len(spectrum), device=device) @ spectrum).clamp_(min=1e-10).log10_()
    with torch.enable_grad():
        image, kernels, weight = (
            torch.zeros(*shape, dtype=torch.bfloat16, device=device).requires_grad_()
            for shape in ((1, _WIDTH, 32, 32), (_WIDTH, _WIDTH, 3, 3), (_WIDTH, _WIDTH))
        )
        convolved = F.gelu(F.conv2d(image.to(memory_format=torch.channels_last), kernels, None, 2, 1))
        rows = F.linear(convolved.permute(0, 2, 3, 1).flatten(0, 2), weight)
        F.layer_norm(rows, [_WIDTH]).float().softmax(-1).sum().backward()
    torch.cuda.synchronize(device)
