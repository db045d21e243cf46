"""The published prompts of language models that rerank, as data.

A prompt is a row of pieces. Each piece is tokenized on its own and the ids are joined, so the
pieces are cut where no tokenizer merge can cross: that gives the very ids of the published
recipe, and lets everything before the document be computed once a request. A piece without a
field may hold control tokens (`<|im_start|>`); a piece with a field holds a caller's text and
is encoded as plain characters.
"""

from __future__ import annotations

from dataclasses import dataclass, replace


@dataclass(frozen=True, slots=True)
class Prompt:
    """One template.

    `before` ends where the `document` piece begins, and `after` begins behind it; their pieces hold
    `{instruction}` or `{query}` or neither. A piece with `{instruction}` is left out where there is no
    instruction. `control` are the tokens of the template that must be one id each. `strips`: texts lose
    the white space around them. `shared`: the model is causal, so what stands before the document is
    computed once.

    `answers` are those whose logits make the score: the first minus the second, or the first
    alone. Relevance = sigmoid((score - shift) / divisor); `shift_by_width` holds (hidden size, shift)
    of the checkpoints that differ.

    How it is known from a checkpoint: `sign` is a sentence of it that stands in a chat template,
    `repositories` are those it was published in, and of its `model_type` no other reranker has one of
    the `shapes`: vocabulary, hidden size and layers.
    """

    name: str
    before: tuple[str, ...]
    document: str
    after: tuple[str, ...]
    control: tuple[str, ...]
    answers: tuple[str, ...]
    repositories: tuple[str, ...]
    model_type: str
    sign: str | None = None
    shapes: tuple[tuple[int, int, int], ...] = ()
    instruction: str | None = None
    strips: bool = False
    shared: bool = True
    shift: float = 0.0
    shift_by_width: tuple[tuple[int, float], ...] = ()
    divisor: float = 1.0

    @property
    def pieces(self) -> tuple[str, ...]:
        return (*self.before, self.document, *self.after)

    @property
    def takes_instruction(self) -> bool:
        return any("{instruction}" in piece for piece in self.pieces)

    def shift_of(self, hidden_size: int) -> float:
        return dict(self.shift_by_width).get(hidden_size, self.shift)


# https://huggingface.co/Qwen/Qwen3-Reranker-0.6B, the recipe for transformers: one newline between
# the fields. The newline before a tag closes the user's piece, because a tokenizer may merge it
# with punctuation before it, and never with the tag behind it.
QWEN3_RERANKER = Prompt(
    name="qwen3-reranker",
    before=(
        "<|im_start|>system\nJudge whether the Document meets the requirements based on the Query and the Instruct"
        ' provided. Note that the answer can only be "yes" or "no".<|im_end|>\n<|im_start|>user\n',
        "<Instruct>:",
        " {instruction}\n",
        "<Query>:",
        " {query}\n",
        "<Document>:",
    ),
    document=" {document}",
    after=("<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n",),
    control=("<|im_start|>", "<|im_end|>", "<think>", "</think>"),
    answers=("yes", "no"),
    sign="Judge whether the Document meets the requirements based on the Query and the Instruct provided.",
    repositories=("Qwen/Qwen3-Reranker-0.6B", "Qwen/Qwen3-Reranker-4B", "Qwen/Qwen3-Reranker-8B"),
    model_type="qwen3",
    # The size of the tokenizer. Qwen3's chat and base models of these sizes pad theirs to 151,936.
    shapes=((151_669, 1024, 28), (151_669, 2560, 36), (151_669, 4096, 36)),
    instruction="Given a web search query, retrieve relevant passages that answer the query",
)

# https://github.com/FlagOpen/FlagEmbedding, its reranker for decoder-only models: the pieces are
# tokenized apart there as well.
BGE_GEMMA = Prompt(
    name="bge-reranker-gemma",
    before=("<bos>", "A: {query}", "\n"),
    document="B: {document}",
    after=(
        "\n",
        "Given a query A and a passage B, determine whether the passage contains an answer to the query by providing"
        " a prediction of either 'Yes' or 'No'.",
    ),
    control=("<bos>",),
    answers=("Yes",),
    sign="Given a query A and a passage B, determine whether the passage contains an answer to the query",
    repositories=("BAAI/bge-reranker-v2-gemma",),
    model_type="gemma",
)

# https://github.com/mixedbread-ai/mxbai-rerank, class MxbaiRerankV2. Its normaliser is a sigmoid
# shifted by half an "estimated maximum": 9 for the base model, 12 for the large one.
MXBAI_V2 = Prompt(
    name="mxbai-rerank-v2",
    before=(
        "<|im_start|>system\nYou are Qwen, created by Alibaba Cloud. You are a helpful assistant.<|im_end|>\n"
        "<|im_start|>user\n",
        "instruction: {instruction}\n",
        "query: {query}",
        "\n",
    ),
    document="document: {document}",
    after=(
        "\n",
        "You are a search relevance expert who evaluates how well documents match search queries. For each"
        " query-document pair, carefully analyze the semantic relationship between them, then provide your binary"
        " relevance judgment (0 for not relevant, 1 for relevant).\nRelevance:",
        "<|im_end|>\n<|im_start|>assistant\n",
    ),
    control=("<|im_start|>", "<|im_end|>"),
    answers=("1", "0"),
    sign="You are a search relevance expert who evaluates how well documents match search queries.",
    repositories=("mixedbread-ai/mxbai-rerank-base-v2", "mixedbread-ai/mxbai-rerank-large-v2"),
    model_type="qwen2",
    shift=6.0,
    shift_by_width=((896, 4.5),),
)

# https://huggingface.co/zeroentropy/zerank-2-reranker: the query is the system's turn, the document the user's.
ZERANK = Prompt(
    name="zerank",
    before=("<|im_start|>system\n", "{query}", "<|im_end|>\n<|im_start|>user\n"),
    document="{document}",
    after=("<|im_end|>\n<|im_start|>assistant\n",),
    control=("<|im_start|>", "<|im_end|>"),
    answers=("Yes",),
    repositories=(
        "zeroentropy/zerank-1",
        "zeroentropy/zerank-1-reranker",
        "zeroentropy/zerank-1-small",
        "zeroentropy/zerank-1-small-reranker",
        "zeroentropy/zerank-2",
        "zeroentropy/zerank-2-reranker",
    ),
    model_type="qwen3",
    strips=True,
    divisor=5.0,
)

# https://huggingface.co/ContextualAI/ctxl-rerank-v2-instruct-multilingual-1b: the document stands before the query,
# and the score is the logit of token 0, which Qwen3's tokenizer spells "!".
CTXL_V2 = Prompt(
    name="ctxl-rerank-v2",
    before=("Check whether a given document contains information helpful to answer the query.\n<Document>",),
    document=" {document}\n",
    after=("<Query>", " {query}", " {instruction}", " ??"),
    control=(),
    answers=("!",),
    sign="Check whether a given document contains information helpful to answer the query.",
    repositories=(
        "ContextualAI/ctxl-rerank-v2-instruct-multilingual-1b",
        "ContextualAI/ctxl-rerank-v2-instruct-multilingual-2b",
    ),
    model_type="qwen3",
)

# The largest of them is a Mistral: its texts have a beginning, and token 0 is another.
CTXL_V2_6B = replace(
    CTXL_V2,
    name="ctxl-rerank-v2-6b",
    before=("<s>", *CTXL_V2.before),
    control=("<s>",),
    answers=("<unk>",),
    repositories=("ContextualAI/ctxl-rerank-v2-instruct-multilingual-6b",),
    model_type="mistral",
)

PROMPTS = {prompt.name: prompt for prompt in (QWEN3_RERANKER, BGE_GEMMA, MXBAI_V2, ZERANK, CTXL_V2, CTXL_V2_6B)}

# https://huggingface.co/nvidia/llama-nemotron-rerank-1b-v2: one text, read in both directions. It is no choice of
# RERANKER_PROMPT, as its architecture has no other.
NEMOTRON = Prompt(
    name="llama-nemotron-rerank",
    before=("<|begin_of_text|>", "question:{query} \n \n"),
    document=" passage:{document}",
    after=(),
    control=("<|begin_of_text|>",),
    answers=(),
    repositories=(),
    model_type="llama",
    shared=False,
)
