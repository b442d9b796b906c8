"""CycloneDX 1.6 ML-BOM: the models with digests, and the scan's result in their model cards.

Made by cyclonedx-python-lib, but for the model cards, which it does not write yet (11.12); the
tests validate the whole by its schema. Needs the extra `[bom]`.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from onnx_soda._report.formats import Context, Format, Scanned
from onnx_soda._results import Finding, Outcome, ScanReport
from onnx_soda._words import pair_label, printable

if TYPE_CHECKING:
    from cyclonedx.model.component import Component

_TASK = "image-classification"


class BomFormat(Format):
    """The report as a bill of materials."""

    name: ClassVar[str] = "bom"
    modules: ClassVar[tuple[str, ...]] = ("cyclonedx",)
    extra: ClassVar[str] = "bom"
    failures: ClassVar[bool] = False

    def render(self, scanned: Sequence[Scanned], context: Context) -> str:
        """See `Format.render`."""
        del context
        return to_bom([one.outcome for one in scanned])


def to_bom(outcomes: Sequence[Outcome]) -> str:
    """Return a bill of materials of the models that were scanned.

    Args:
        outcomes: Scans; models that could not be scanned have no digest, and are left out.
    """
    from cyclonedx.model.bom import Bom
    from cyclonedx.model.component import Component, ComponentType
    from cyclonedx.output.json import JsonV1Dot6

    reports = {
        f"model-{number}": outcome
        for number, outcome in enumerate(outcomes)
        if isinstance(outcome, ScanReport)
    }
    bom = Bom(components=[_component(ref, report) for ref, report in reports.items()])
    tool = next(iter(reports.values())).tool if reports else None
    if tool:
        bom.metadata.tools.components.add(
            Component(name=tool.name, version=tool.version, type=ComponentType.APPLICATION)
        )
    document = json.loads(JsonV1Dot6(bom).output_as_string())
    for component in document.get("components", []):
        component["modelCard"] = _card(reports[component["bom-ref"]])
    return json.dumps(document, indent=2, allow_nan=False) + "\n"


def _component(ref: str, report: ScanReport) -> Component:
    from cyclonedx.model import HashAlgorithm, HashType, Property
    from cyclonedx.model.component import Component, ComponentType

    model = report.model
    files = [
        Component(
            name=printable(one.file),
            type=ComponentType.FILE,
            hashes=[HashType(alg=HashAlgorithm.SHA_256, content=one.sha256)],
        )
        for one in model.external_data
    ]
    return Component(
        name=printable(model.file),
        type=ComponentType.MACHINE_LEARNING_MODEL,
        bom_ref=ref,
        hashes=[HashType(alg=HashAlgorithm.SHA_256, content=model.sha256)],
        components=files,
        properties=[
            Property(name="onnx-soda:verdict", value=report.verdict),
            Property(name="onnx-soda:opset", value=str(model.opset)),
            Property(name="onnx-soda:parameters", value=str(model.parameters)),
            Property(name="onnx-soda:producer", value=printable(model.producer)),
            *(
                Property(name=f"onnx-soda:evidence:{printable(name)}", value=evidence.verdict)
                for name, evidence in report.evidence.items()
            ),
        ],
    )


def _card(report: ScanReport) -> dict[str, Any]:
    data = report.dataset
    metrics = [{"type": "onnx-soda verdict", "value": report.verdict}]
    if data:
        metrics.append({"type": "clean accuracy", "value": f"{data.accuracy:.4f}"})
    names = data.class_names if data else None
    metrics += [_metric(finding, names) for finding in report.findings if finding.score is not None]
    risks = [
        {
            "name": printable(f"{finding.rule_id} {finding.severity}: {finding.message}"),
            "mitigationStrategy": printable(finding.advice),
        }
        for finding in report.findings
    ]
    limits = [printable(reason) for reason in report.reasons]
    return {
        "modelParameters": {"task": _TASK},
        "quantitativeAnalysis": {"performanceMetrics": metrics},
        "considerations": {"technicalLimitations": limits, "ethicalConsiderations": risks},
    }


def _metric(finding: Finding, names: Sequence[str] | None) -> dict[str, str]:
    target = finding.target_class
    pair = "" if target is None else pair_label(finding.victim_class, target, names)
    return {
        "type": f"{finding.rule_id} score",
        "slice": printable(pair),
        "value": f"{finding.score:.4f}",
    }
