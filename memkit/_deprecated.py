"""Names that work for one release more, with a `DeprecationWarning`."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

if TYPE_CHECKING:
    from typing_extensions import deprecated as deprecated  # which type checkers report
else:
    import functools
    import warnings

    P = ParamSpec("P")
    T = TypeVar("T")

    def deprecated(message: str) -> Callable[[Callable[P, T]], Callable[P, T]]:
        """Warn where a function is called."""

        def wrap(function: Callable[P, T]) -> Callable[P, T]:
            @functools.wraps(function)
            def warned(*args: Any, **kwargs: Any) -> T:
                warnings.warn(message, DeprecationWarning, stacklevel=2)
                return function(*args, **kwargs)

            return warned

        return wrap
