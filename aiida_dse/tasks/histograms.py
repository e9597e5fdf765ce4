"""Restraints of free size histograms: the sum of the weights, and their smoothness."""

from __future__ import annotations

from collections.abc import Mapping

from aiida_dse.documents import ModelDocument
from aiida_dse.engine.model.pattern import PatternModel
from aiida_dse.engine.model.restraints import Restraint
from aiida_dse.engine.particles.length_laws import FreeWeights

#: Standard deviation of the sum of the weights. The pattern depends on their ratios only.
SUM_SIGMA = 1e-3
#: Default standard deviation of the second differences, relative to the mean weight.
SMOOTHNESS = 1.0


def histogram_restraints(document: ModelDocument, model: PatternModel) -> list[Restraint]:
    """The restraints of all histograms of a document."""
    found = []
    for phase, section in document.phases.items():
        for length, one in (section.particle.distributions if section.particle else {}).items():
            law = one.length_law()
            if not isinstance(law, FreeWeights):
                continue
            names = [f"{phase}.{name}" for name in law.names(length)]

            def total(values: Mapping[str, float], names: list[str] = names) -> float:
                all_values = model.constrained(dict(values))
                return float(sum(all_values[name] for name in names))

            found.append(Restraint(f"{phase}.{length}: sum of weights", 1.0, SUM_SIGMA, "", total))
            sigma = (one.smoothness or SMOOTHNESS) / len(names)
            # the density vanishes one step beyond the first and the last size
            for k in range(len(names)):
                near = names[max(k - 1, 0):k + 2]

                def curvature(values: Mapping[str, float], middle: str = names[k], near: list[str] = near) -> float:
                    all_values = model.constrained(dict(values))
                    return float(sum(all_values[name] for name in near) - 3 * all_values[middle])

                found.append(Restraint(f"{phase}.{length}: curvature {k + 1}", 0.0, sigma, "", curvature))
    return found
