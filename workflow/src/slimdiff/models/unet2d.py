"""The modern U-Net: diffusers' UNet2DModel, class-conditional with a null class.

Residual blocks with GroupNorm, SiLU and a scale and shift by the embedding (Dhariwal and Nichol 2021), attention where
the block types say so. Module names, and so state dicts, are those of diffusers.
"""

from dataclasses import asdict, dataclass
from typing import Any, cast

import torch
import torch.nn.functional as F
from diffusers import UNet2DModel
from diffusers.models.attention_processor import Attention
from diffusers.models.downsampling import Downsample2D
from diffusers.models.resnet import ResnetBlock2D
from diffusers.models.upsampling import Upsample2D
from torch import nn

from slimdiff.catalog.limits import network_faults
from slimdiff.catalog.samplers import TIMESTEPS
from slimdiff.errors import UserError, refuse
from slimdiff.models.groups import conv_groups
from slimdiff.models.patches import from_patches, to_patches

EMBEDDERS = ("time_embedding.", "wave_projection")  # prefixes of layers that no scope holds


@dataclass(frozen=True)
class UNet2DSettings:
    """Settings of the network: `classes`, `zero_init`, and UNet2DModel's own config."""

    block_out_channels: tuple[int, ...]
    layers_per_block: int
    down_block_types: tuple[str, ...]  # DownBlock2D | AttnDownBlock2D
    up_block_types: tuple[str, ...]  # UpBlock2D | AttnUpBlock2D
    attention_head_dim: int | None  # channels of a head; None: one head
    norm_num_groups: int
    resnet_time_scale_shift: str  # default (adds the embedding) | scale_shift
    classes: int  # 0: unconditional
    zero_init: bool  # each residual branch and the output start at zero (Dhariwal and Nichol 2021)
    norm_eps: float = 1e-5
    downsample_padding: int = 1
    add_attention: bool = True  # in the middle block
    flip_sin_to_cos: bool = True
    freq_shift: float = 0.0
    attn_norm_num_groups: int | None = None  # before the middle attention; None: none with scale_shift
    time_embedding_dim: int | None = None  # width of the embedding; None: four times the first block's channels
    null_class: bool = True  # with classes: whether one more stands for no class, which guidance needs


class Downsample(Downsample2D):
    """Halve the image by a strided convolution of any width."""

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """(N, C, S, S) → (N, C, S / 2, S / 2)."""
        padded = hidden_states if self.padding else F.pad(hidden_states, (0, 1, 0, 1))
        out: torch.Tensor = self.conv(padded)
        return out


class Upsample(Upsample2D):
    """Double the image by its nearest pixels, then a convolution of any width."""

    def forward(self, hidden_states: torch.Tensor, output_size: int | None = None) -> torch.Tensor:
        """(N, C, S, S) → (N, C, 2 S, 2 S)."""
        out: torch.Tensor = self.conv(F.interpolate(hidden_states, scale_factor=2.0, mode="nearest"))
        return out


class ScaleShiftBlock(ResnetBlock2D):
    """A residual block with scale and shift; as in diffusers but for the order of splitting them and adding axes.

    OpenVINO 2026.4 crashes when it compiles diffusers' order after a GroupNorm.
    """

    def forward(self, input_tensor: torch.Tensor, temb: torch.Tensor) -> torch.Tensor:
        """(N, C, S, S) and the embedding → (N, width, S, S)."""
        h = self.conv1(F.silu(self.norm1(input_tensor)))
        scale, shift = (part[:, :, None, None] for part in self.time_emb_proj(F.silu(temb)).chunk(2, dim=1))
        h = self.conv2(F.silu(self.norm2(h) * (1 + scale) + shift))
        out: torch.Tensor = h + (input_tensor if self.conv_shortcut is None else self.conv_shortcut(input_tensor))
        return out


class UNet2D(UNet2DModel):
    """UNet2DModel called like the other networks; `groups` divides the 3×3 convolutions of blocks and samplers."""

    to = nn.Module.to  # diffusers' own warns of every change of precision

    def __init__(
        self, settings: UNet2DSettings, image_channels: int, image_size: int, groups: int | str = 1, patch: int = 1
    ) -> None:
        config = asdict(settings)
        refuse(network_faults("unet2d", image_size, config, patch), "models", "*")
        classes, zero_init, null_class = (config.pop(key) for key in ("classes", "zero_init", "null_class"))
        super().__init__(
            **config,
            sample_size=image_size // patch,
            in_channels=image_channels * patch**2,
            out_channels=image_channels * patch**2,
            num_class_embeds=classes + null_class if classes else None,  # the last one is the null class
        )
        self.classes, self.null_class, self.patch = classes, null_class, patch
        self.image_shape = (image_channels, image_size, image_size)
        self.wave_projection: nn.Linear | None = None
        for name in ("up_blocks", "conv_norm_out", "conv_act", "conv_out"):  # diffusers registers mid_block after these
            self._modules[name] = self._modules.pop(name)
        for module in self.modules():  # diffusers' own check widths, and copy large batches
            if isinstance(module, Downsample2D | Upsample2D):
                module.__class__ = Downsample if isinstance(module, Downsample2D) else Upsample
            elif isinstance(module, ResnetBlock2D) and settings.resnet_time_scale_shift == "scale_shift":
                module.__class__ = ScaleShiftBlock
        for name, module in list(self.named_modules()):
            if groups != 1 and isinstance(module, nn.Conv2d) and module.kernel_size == (3, 3) and "." in name:
                self.set_submodule(name, _grouped(module, groups))
        if zero_init:
            self._zero_outputs()

    def forward(self, x: torch.Tensor, noise_level: torch.Tensor, labels: torch.Tensor | None = None) -> torch.Tensor:
        """x (N, C, S, S), noise_level (N,), labels int64 (N,) with -1 for the null class → (N, C, S, S)."""
        embedding = self._embed(noise_level, labels)
        h = self.conv_in(to_patches(x, self.patch))
        skips: tuple[torch.Tensor, ...] = (h,)
        for block in self.down_blocks:
            h, outputs = block(h, embedding)
            skips += outputs
        h = self.mid_block(h, embedding)
        for block in self.up_blocks:
            n = len(block.resnets)
            h = block(h, skips[-n:], embedding)
            skips = skips[:-n]
        return self._out(h)

    def outer_level(self) -> nn.Module:
        """Return the module whose first argument is the deep features that DeepCache reuses."""
        return self.up_blocks[-1]

    def shallow_pass(
        self, x: torch.Tensor, noise_level: torch.Tensor, labels: torch.Tensor | None, features: torch.Tensor
    ) -> torch.Tensor:
        """Evaluate only the outermost level, with the cached argument of `outer_level` as deep features."""
        embedding = self._embed(noise_level, labels)
        h = self.conv_in(to_patches(x, self.patch))
        skips: tuple[torch.Tensor, ...] = (h,)
        first = self.down_blocks[0]
        attentions = getattr(first, "attentions", [None] * len(first.resnets))
        for resnet, attention in zip(first.resnets, attentions, strict=True):
            h = resnet(h, embedding)
            h = h if attention is None else attention(h)
            skips += (h,)
        return self._out(self.up_blocks[-1](features, skips, embedding))

    def prune_scopes(self) -> dict[str, tuple[str, ...]]:
        """Return the module names of each pruning scope: convolutions and linear layers, with their biases.

        `middle` is the middle block and the blocks of the smallest images, `extremes` is the rest. No scope holds the
        norms or the embedding of noise level and class.
        """
        layers = [name for name, module in self.named_modules() if isinstance(module, (nn.Conv2d, nn.Linear))]
        inner = (f"down_blocks.{len(self.down_blocks) - 1}.", "mid_block.", "up_blocks.0.")
        middle = tuple(name for name in layers if name.startswith(inner))
        outer = tuple(name for name in layers if not name.startswith((*inner, *EMBEDDERS)))
        return {"global": (*middle, *outer), "middle": middle, "extremes": outer}

    def channel_plan(self) -> dict[str, Any]:
        """Return what channel pruning needs: `inputs` for tracing, layers that `keep` all outputs, and the `heads` of
        each attention module.

        The embedding keeps its width, and labels need not be traced.
        """
        heads = {name: module.heads for name, module in self.named_modules() if isinstance(module, Attention)}
        keep = ["conv_out", "time_embedding.linear_1", "time_embedding.linear_2"]
        keep += [] if self.wave_projection is None else ["wave_projection"]
        inputs = (torch.zeros(1, *self.image_shape), torch.zeros(1))
        plan = {"inputs": inputs, "keep": keep, "heads": heads, "even_norms": True}
        if self.config.resnet_time_scale_shift == "scale_shift":
            blocks = [name for name, module in self.named_modules() if isinstance(module, ResnetBlock2D)]
            plan["scale_shift"] = [f"{name}.time_emb_proj" for name in blocks]
        return plan

    def block_plan(self) -> dict[str, dict[str, int | None]]:
        """Return the blocks that can be left out, by name: each with how many channels of its input are passed on.

        None: all, of a block whose output has its input's shape. A residual block up has a skip behind the channels
        that it gets from the block before it; these can be passed on if its output is as wide.
        """
        plan: dict[str, dict[str, int | None]] = {}
        width = 0  # channels of the last block's output
        for name, module in self.named_modules():
            if isinstance(module, Attention):
                plan[name] = {name: None}
            elif isinstance(module, Upsample2D):
                width = module.conv.out_channels
            elif isinstance(module, ResnetBlock2D):
                own = module.conv2.out_channels
                if module.conv1.in_channels == own:
                    plan[name] = {name: None}
                elif name.startswith("up_blocks.") and own == width:
                    plan[name] = {name: width}
                width = own
        return plan

    def feature_modules(self) -> tuple[str, ...]:
        """Return the names of the modules whose outputs distillation compares: the end of each level."""
        down, up = range(len(self.down_blocks)), range(len(self.up_blocks))
        return (*(f"down_blocks.{i}" for i in down), "mid_block", *(f"up_blocks.{i}" for i in up))

    def split(self) -> tuple[nn.Module, nn.Module]:
        """Return an embedder of noise level and class, and this network as a body that takes its embedding."""
        embedder = UNet2DEmbedder(self)
        self.__class__ = UNet2DBody
        del self.time_proj, self.time_embedding, self.class_embedding, self.wave_projection
        return embedder, self

    def _embed(self, noise_level: torch.Tensor, labels: torch.Tensor | None) -> torch.Tensor:
        """Return the embedding (N, 4 · block_out_channels[0]) of the noise level and, with classes, of the label."""
        waves = self.time_proj(noise_level)
        embedding: torch.Tensor = self.time_embedding(
            waves if self.wave_projection is None else self.wave_projection(waves)
        )
        if not self.classes:
            return embedding
        if not self.null_class:  # without labels channel pruning traces the layers
            return embedding if labels is None else embedding + self.class_embedding(labels)
        if labels is None:
            labels = torch.full_like(noise_level, self.classes, dtype=torch.int64)
        return embedding + self.class_embedding(torch.where(labels < 0, self.classes, labels))

    def project_waves(self, width: int) -> None:
        """Put a linear layer, uninitialized, between the sines and cosines of the noise level and the embedding.

        With it a block_out_channels[0] of `width` embeds as many waves as the network was built for. UNet2DModel holds
        the same as its table of a `learned` embedding of `width` numbers a step.

        Raises:
            UserError: there are fewer waves than that.
        """
        if not 1 <= width <= self.time_proj.num_channels:
            raise UserError(f"waves is {width}; allowed for this network: 1 to {self.time_proj.num_channels}")
        self.wave_projection = nn.Linear(self.time_proj.num_channels, width, bias=False)

    @torch.no_grad()
    def narrow_waves(self, width: int) -> None:
        """Give the embedding `width` inputs: the mixtures of waves that keep most of its first layer's outputs.

        They are the principal components of these outputs over the steps of the noise schedule. Half of 128 waves lose
        1e-7 of the outputs' deviation, half of 32 a third at most, since slow waves hardly differ within 1,000 steps.
        """
        old = self.time_embedding.linear_1
        like = {"device": old.weight.device, "dtype": torch.float64}
        before = None if self.wave_projection is None else self.wave_projection.weight.double()
        weight = old.weight.double() if before is None else old.weight.double() @ before
        outputs = self.time_proj(torch.arange(TIMESTEPS, **like)).double() @ weight.T
        mean = outputs.mean(0)
        components = torch.linalg.svd(outputs - mean, full_matrices=False).Vh[:width]
        new = nn.Linear(width, old.out_features, device=old.weight.device)
        new.weight.copy_(components.T)
        new.bias.copy_(old.bias.double() + mean - components.T @ (components @ mean))
        self.project_waves(width)
        assert self.wave_projection is not None
        self.wave_projection.to(old.weight.device).weight.copy_(components @ weight)
        self.time_embedding.linear_1 = new

    def _out(self, h: torch.Tensor) -> torch.Tensor:
        return from_patches(self.conv_out(self.conv_act(self.conv_norm_out(h))), self.patch)

    def _zero_outputs(self) -> None:
        """Set the last layer of each residual branch, and of the network, to zero."""
        outputs = [module.conv2 for module in self.modules() if isinstance(module, ResnetBlock2D)]
        outputs += [module.to_out[0] for module in self.modules() if isinstance(module, Attention)]
        for layer in (*outputs, self.conv_out):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)


class UNet2DEmbedder(nn.Module):
    """Noise level (N,) and labels (N,) or None → the embedding (N, 4 · block_out_channels[0])."""

    def __init__(self, network: UNet2D) -> None:
        super().__init__()
        self.time_proj, self.time_embedding = network.time_proj, network.time_embedding
        self.wave_projection = network.wave_projection
        self.class_embedding, self.classes = network.class_embedding, network.classes
        self.null_class = network.null_class

    def forward(self, noise_level: torch.Tensor, labels: torch.Tensor | None = None) -> torch.Tensor:
        """Embed like the network; label -1 means unlabelled."""
        return UNet2D._embed(cast(UNet2D, self), noise_level, labels)


class UNet2DBody(UNet2D):
    """A network that takes its embedding instead of the noise level."""

    def _embed(self, noise_level: torch.Tensor, labels: torch.Tensor | None) -> torch.Tensor:
        return noise_level


def _grouped(layer: nn.Conv2d, groups: int | str) -> nn.Conv2d:
    """Return a convolution like `layer` in groups."""
    count = conv_groups(layer.in_channels, layer.out_channels, groups)
    stride, padding = layer.stride[0], 1 if layer.padding == (1, 1) else 0
    return nn.Conv2d(layer.in_channels, layer.out_channels, 3, stride, padding, groups=count)
