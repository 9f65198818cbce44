"""Head and tail of one cut in this process, without a link between them."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

from experiments.preparation import PreparedCut, PreparedModel
from experiments.quantising import CodedCut
from splitbed.engine import Engine
from splitbed.runnable import carry
from splitbed.task import PICTURE_CUT, RESULT_CUT, Answerer
from splitbed.tensor import Array


class CutRunner:
    """Runs both parts of a cut, `@picture` and `@result` included, as the two nodes would.

    With `coded` the parts are those that its codecs want: what crosses is then what they take.
    """

    def __init__(
        self,
        model: PreparedModel,
        cut: PreparedCut,
        threads: int = 0,
        coded: CodedCut | None = None,
    ) -> None:
        self._model, self._cut = model, cut
        if coded is None:
            opener = partial(Engine, threads=threads)
            self._head = cut.parts.first.file.opened(opener) if cut.parts.first else None
            self._tail = cut.parts.second.file.opened(opener) if cut.parts.second else None
            self._taken = [spec.name for spec in cut.cut.boundary]
        else:
            self._head, self._tail, self._taken = coded.head, coded.tail, coded.taken
        self._outputs = [spec.name for spec in model.canonical.outputs]
        self._answerer = Answerer(model.task, model.canonical.outputs)

    def boundary(self, picture: Array) -> dict[str, Array]:
        """What crosses for one picture (`Preprocessor.picture`), by tensor name."""
        if self._cut.cut.name == PICTURE_CUT:
            return {PICTURE_CUT: picture}
        feeds = {self._model.task.input: self._model.preprocessor.tensor(picture)}
        if self._cut.cut.name == RESULT_CUT:
            return self._answerer.boundary(carry(self._head, feeds, self._outputs))
        return carry(self._head, feeds, self._taken)

    def outputs(self, boundary: Mapping[str, Array]) -> dict[str, Array]:
        """The model's output tensors for what crossed; not for `@result`."""
        if self._cut.cut.name == PICTURE_CUT:
            picture = boundary[PICTURE_CUT]
            boundary = {self._model.task.input: self._model.preprocessor.tensor(picture)}
        return carry(self._tail, boundary, self._outputs)

    def answer(self, boundary: Mapping[str, Array]) -> dict[str, Any]:
        """The task's answer for what crossed."""
        if self._cut.cut.name == RESULT_CUT:
            return self._answerer.answer_from_boundary(boundary)
        return self._answerer.answer(self.outputs(boundary))
