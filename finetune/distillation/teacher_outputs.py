"""What a teacher computes on a batch, and the feature maps that a network computes on the way to its embedding."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from torch import Tensor, nn

from ...errors import ConfigError, nearest

__all__ = ["FeatureTap", "TeacherOutputs"]


@dataclass(frozen=True)
class TeacherOutputs:
    """The outputs of one teacher for the images of a batch, without gradient."""

    embeddings: Tensor
    """float32 [N, D]."""
    logits: Tensor | None = None
    """float32 [N, C], where the teacher has scores of the training identities."""
    maps: dict[str, Tensor] = field(default_factory=dict)
    """Feature maps [N, C, H, W] by module name, those that were asked for."""


class FeatureTap:
    """The outputs of some modules of a network, kept while `watching`. The network stays as it is: no hook is left."""

    def __init__(self, module: nn.Module, names: Iterable[str], where: str) -> None:
        """Watch the modules `names` of `module`; `where` begins the message on a name that does not exist.

        Raises:
            ConfigError: there is no such module.
        """
        known = dict(module.named_modules())
        self._maps: dict[str, Tensor] = {}
        self._where = where
        self._leaves = [name for name, each in known.items() if not list(each.children())]
        for name in names:
            if not name or name not in known:
                raise ConfigError(f"{where}: no module '{name}'; {nearest(name, known)}")
        self._watched = {name: known[name] for name in names}

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Within this context a forward pass leaves its maps for `taken`."""
        hooks = [module.register_forward_hook(self._keeper(name)) for name, module in self._watched.items()]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()

    def taken(self) -> dict[str, Tensor]:
        """The maps by module name; they are forgotten here, so that a later step cannot meet earlier ones.

        Raises:
            ConfigError: a module was not called, as groups of layers in a converted network are not.
        """
        maps, self._maps = self._maps, {}
        for name in self._watched:
            if name not in maps:
                inside = [leaf for leaf in self._leaves if leaf.startswith(f"{name}.")]
                instead = f"name a layer in it, such as '{inside[-1]}'" if inside else "name another"
                raise ConfigError(f"{self._where}: module '{name}' is never called itself; {instead}")
        return maps

    def _keeper(self, name: str) -> Callable[[nn.Module, object, object], None]:
        def keep(_module: nn.Module, _inputs: object, output: object) -> None:
            if not isinstance(output, Tensor) or not 2 <= output.ndim <= 4:
                raise ConfigError(
                    f"{self._where}: module '{name}' gives no feature map [N, C, H, W]; name a convolution"
                )
            self._maps[name] = output

        return keep
