"""SubSpec: quantized substitutes of the layers that stream draft on the target's own cache."""

from __future__ import annotations

from specdecodes.drafters.level import region_nodes
from specdecodes.drafters.substitute import SubstituteDrafter
from specdecodes.engine.layers import ResidentLayers
from specdecodes.engine.runner import ModelRunner
from specdecodes.errors import ConfigError
from specdecodes.methods.assembly import LoadedTarget
from specdecodes.methods.memory.sizes import layers_bytes
from specdecodes.methods.needs import DraftNeeds
from specdecodes.methods.site import Site
from specdecodes.methods.weights.quantized import load_quantized
from specdecodes.models.decoder import Decoder
from specdecodes.notify import Notify
from specdecodes.offload.planning.plan import Placement
from specdecodes.quant import Execution, Rules, choose_kernels

FEWER = ("hqq3", "hqq2")
"""What draft.quant=auto comes down to where 4 bits do not fit."""

ACCEPTANCES = ((8, 0.99), (4, 0.965), (3, 0.93), (2, 0.75))
"""Assumed of a level of four lanes until a run has shown it, by the draft's fewest bits: half the misses of the chains
in `assets/results/precision.json`, on three models."""


def needs(site: Site, *, substitute_all: bool = False) -> tuple[DraftNeeds, ...]:
    """On the kernels that suit a level's width, and on smaller ones for where those are too big for the budget; last,
    if the pipeline leaves it open, in fewer bits."""
    rules = site.pipeline.draft.rules
    _check(site, rules)
    fewer = [Rules.parse(scheme) for scheme in FEWER] if site.pipeline.draft.quant == "auto" else []
    return tuple(need for one in (rules, *fewer) for need in _needs_of(site, one, substitute_all))


def _needs_of(site: Site, rules: Rules, substitute_all: bool) -> list[DraftNeeds]:
    wide = Execution(str(site.device), site.pipeline.tree.width)
    small = Execution(wide.device, wide.rows, compact=True)
    alike = choose_kernels(rules, wide) == choose_kernels(rules, small)
    return [_needs_on(site, rules, one, substitute_all) for one in ((wide,) if alike else (wide, small))]


def _check(site: Site, rules: Rules) -> None:
    rules.check(site.checkpoint.linears)
    if not rules:
        raise ConfigError(
            f"draft.quant is {rules}, so draft and target would be the same; name a scheme such as hqq4, or decode "
            "plainly with --set method=vanilla."
        )
    if str(rules) == site.pipeline.target.quant:
        raise ConfigError(f"draft.quant and target.quant are both {rules}; let the draft be the cheaper one.")
    if site.checkpoint.rules and not all(scheme for _, scheme in rules.rules):
        raise ConfigError(
            f"draft.quant is {rules}, but a quantized checkpoint has no full-precision linears to draft with; name a "
            "scheme for all of them."
        )


def drafter(target: LoadedTarget, progress: Notify) -> SubstituteDrafter:
    site, tree, decoder = target.site, target.site.pipeline.tree, target.draft
    assert decoder is not None, "the method asks for substitutes"
    layers = ResidentLayers(decoder.stack)
    runner = ModelRunner(
        decoder, layers, target.runner.cache, site.steps(), width=tree.width, chunk=site.chunk, exact=False
    )
    return SubstituteDrafter(target.grower(runner))


def substitutes(site: Site, placement: Placement, decoder: Decoder, progress: Notify) -> Decoder:
    """The target with quantized linears where the placement says so; everything else is shared, not copied."""
    draft = Decoder(site.checkpoint.spec, site.dtype)
    draft.embedding, draft.norm, draft.head = decoder.embedding, decoder.norm, decoder.head
    for index in set(range(len(decoder.layers))) - set(placement.substituted):
        draft.layers[index] = decoder.layers[index]
    # The plan has made its choice: of bits, and of the kernels that it counted.
    rules, wide = Rules.parse(placement.draft_rules), Execution(str(site.device), site.pipeline.tree.width)
    compact = choose_kernels(rules, wide).kernel != placement.kernel
    execution = Execution(wide.device, wide.rows, compact=compact)
    load_quantized(draft, site, rules, execution, placement.substituted, progress)
    return draft


def _needs_on(site: Site, rules: Rules, execution: Execution, substitute_all: bool) -> DraftNeeds:
    tree, choice = site.pipeline.tree, choose_kernels(rules, execution)
    fewest = min(scheme.bits for scheme in rules.schemes)
    return DraftNeeds(
        tree.depth,
        region_nodes(tree),
        layers_bytes(site, rules, execution),
        substitute_all,
        rules,
        execution,
        choice.kernel,
        choice.note,
        acceptance=next(share for bits, share in ACCEPTANCES if fewest >= bits),
    )
