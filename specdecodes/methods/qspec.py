"""QSpec: one set of packed 4-bit weights, run with inputs of 4 bits to draft and with inputs as they are to verify.

Nothing but the rounding of inputs tells draft and target apart: weights, norms, head and cache are the same tensors,
and the verify pass writes every committed row anew. The answers are those of the target's own plain decoding, its
weights in 4 bits.
"""

from __future__ import annotations

import copy
from dataclasses import replace

from torch import nn

from specdecodes.drafters.level import region_nodes
from specdecodes.drafters.substitute import SubstituteDrafter
from specdecodes.engine.layers import ResidentLayers
from specdecodes.engine.runner import ModelRunner
from specdecodes.errors import ConfigError
from specdecodes.methods.assembly import LoadedTarget
from specdecodes.methods.needs import DraftNeeds
from specdecodes.methods.site import Site
from specdecodes.models.decoder import Decoder
from specdecodes.notify import Notify
from specdecodes.quant import SCHEMES, Execution, Rules, Scheme, choose_kernels, twin, typical

VERIFIED, DRAFTED = "w4a16", "w4a4"


def needs(site: Site) -> tuple[DraftNeeds, ...]:
    tree, layers = site.pipeline.tree, site.checkpoint.spec.layers
    execution, rules = Execution(str(site.device), tree.width), _drafted(site)
    choice = choose_kernels(site.rules, execution)
    found = DraftNeeds(
        tree.depth,
        region_nodes(tree),
        (0,) * layers,  # drafting adds nothing to what the target holds
        substitute_all=True,
        rules=rules,
        execution=execution,
        kernel=choice.kernel,
        kernel_note=f"the target's own weights, inputs rounded to 4 bits; {choice.note}",
    )
    return (found,)


def drafter(target: LoadedTarget, progress: Notify) -> SubstituteDrafter:
    site, tree = target.site, target.site.pipeline.tree
    decoder = draft_of(target.decoder)
    runner = ModelRunner(
        decoder,
        ResidentLayers(decoder.stack),
        target.runner.cache,
        site.steps(),
        width=tree.width,
        chunk=site.chunk,
        exact=False,
    )
    return SubstituteDrafter(target.grower(runner))


def draft_of(target: Decoder) -> Decoder:
    """The same modules on the same tensors, but that quantized linears round their inputs to 4 bits."""
    draft = copy.copy(target)
    draft.__dict__["_modules"] = {name: part and _second_way(part) for name, part in target._modules.items()}
    return draft


def _second_way(module: nn.Module) -> nn.Module:
    """`module` on the same tensors, with 4-bit inputs where it is a linear that has two ways."""
    rounding = twin(module, SCHEMES[DRAFTED].activations)
    if rounding is not None:
        return rounding
    other = copy.copy(module)
    other.__dict__["_modules"] = {name: part and _second_way(part) for name, part in module._modules.items()}
    return other


def _drafted(site: Site) -> Rules:
    """How the target's weights are drafted. Raises ConfigError for a target whose weights cannot be run in two ways,
    and for another draft."""
    target, draft = site.pipeline.target, site.pipeline.draft
    names = {scheme.name for scheme in site.rules.schemes}
    if names != {VERIFIED}:
        raise ConfigError(
            f"qspec runs one set of 4-bit weights in two ways: target.quant is {VERIFIED}, or {VERIFIED}:g128, not "
            f"{target.quant}. share_sd drafts with other schemes."
        )
    if draft.quant not in ("auto", DRAFTED):
        raise ConfigError(f"qspec drafts as {DRAFTED}, not as {draft.quant}; leave draft.quant out, or use share_sd.")
    spec = site.checkpoint.spec
    if not typical(site.rules, spec.linears(), spec.layers):
        raise ConfigError(f"target.quant {target.quant} leaves most weights in full precision; qspec cannot draft so.")
    return Rules(tuple((pattern, scheme and _second(scheme)) for pattern, scheme in site.rules.rules))


def _second(scheme: Scheme) -> Scheme:
    """What `scheme` is with its inputs rounded."""
    kernel = "reference" if scheme.kernel == "reference" else ""  # the one that runs both under one name
    return replace(SCHEMES[DRAFTED], group=scheme.group, kernel=kernel)
