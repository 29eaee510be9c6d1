"""A run's answers as types: frozen dataclasses whose JSON the commands print. They need neither torch nor ray.

`schemas/` has a JSON Schema of each.
"""

from taft_ray.answers.answer import Answer
from taft_ray.answers.certificates import BroughtBack, Certificate, Due, OutsideRelease, Refitted, Step, Withdrawal
from taft_ray.answers.compared import Compared, ComparedRun
from taft_ray.answers.dossier import Dossier
from taft_ray.answers.made import (
    Collected,
    Demonstrated,
    Destroyed,
    Diagnosis,
    Exported,
    Finding,
    KeyDestroyed,
    Paged,
    Reported,
    Retention,
    Runs,
    RunSummary,
)
from taft_ray.answers.measured import Audit, Reproduced, Swept, Trial
from taft_ray.answers.pictures import ByComposition, Evaluation, Prediction, Predictions, Unreadable
from taft_ray.answers.privacy_audit import ManyRuns, OneRun, PrivacyAudit
from taft_ray.answers.proof import CertificateVerification, Verification
from taft_ray.answers.reconstruction import Reconstruction, ReconstructionRisk
from taft_ray.answers.released import Checked, Publication, Recalls, Release, SentNotice, TakenNotice
from taft_ray.answers.requests import EarlierRequest, Estimate, Promise, Waiting
from taft_ray.answers.serving import ServedModel, Serving
from taft_ray.answers.spent import PrivacyStatement, Spent, SpentShard
from taft_ray.answers.state import (
    Composed,
    DamagedObject,
    Quarantined,
    RejectedRow,
    RejectedRows,
    Repaired,
    RequestStatus,
    Sample,
    Samples,
    ShardStatus,
    Status,
    Trained,
)
from taft_ray.answers.tuned import Tuned, TunedCandidate, TunedKappa, TunedPenalty
from taft_ray.answers.why import Explained, Why, WhyGroup

# the answers of verbs, by the command that prints them
OF_COMMANDS: dict[str, tuple[type[Answer], ...]] = {
    "train": (Trained,),
    "evaluate": (Evaluation,),
    "sweep": (Swept,),
    "tune": (Tuned,),
    "export": (Exported,),
    "estimate": (Estimate,),
    "forget": (Certificate, Promise, Due, Estimate),
    "sign": (Certificate,),
    "status": (Status, RejectedRows, Samples),
    "verify": (Verification, CertificateVerification),
    "repair": (Repaired,),
    "audit": (Audit, PrivacyAudit, Reconstruction),
    "destroy-key": (KeyDestroyed,),
    "retention": (Retention,),
    "destroy": (Destroyed,),
    "doctor": (Diagnosis,),
    "gc": (Collected,),
    "report": (Reported, Compared),
    "reproduce": (Reproduced,),
    "demo": (Demonstrated,),
    "list": (Runs,),
    "page": (Paged,),
    "predict": (Predictions,),
    "privacy": (Spent, PrivacyStatement),
    "dossier": (Dossier,),
    "recalls": (Recalls,),
    "check": (Checked,),
    "release": (Publication,),
    "serve": (Serving,),
}

__all__ = [
    "OF_COMMANDS",
    "Answer",
    "Audit",
    "BroughtBack",
    "ByComposition",
    "Certificate",
    "CertificateVerification",
    "Checked",
    "Collected",
    "Compared",
    "ComparedRun",
    "Composed",
    "DamagedObject",
    "Demonstrated",
    "Destroyed",
    "Diagnosis",
    "Dossier",
    "Due",
    "EarlierRequest",
    "Estimate",
    "Evaluation",
    "Explained",
    "Exported",
    "Finding",
    "KeyDestroyed",
    "ManyRuns",
    "OneRun",
    "OutsideRelease",
    "Paged",
    "Prediction",
    "Predictions",
    "PrivacyAudit",
    "PrivacyStatement",
    "Promise",
    "Publication",
    "Quarantined",
    "Recalls",
    "Reconstruction",
    "ReconstructionRisk",
    "Refitted",
    "RejectedRow",
    "RejectedRows",
    "Release",
    "Repaired",
    "Reported",
    "Reproduced",
    "RequestStatus",
    "Retention",
    "RunSummary",
    "Runs",
    "Sample",
    "Samples",
    "SentNotice",
    "ServedModel",
    "Serving",
    "ShardStatus",
    "Spent",
    "SpentShard",
    "Status",
    "Step",
    "Swept",
    "TakenNotice",
    "Trained",
    "Trial",
    "Tuned",
    "TunedCandidate",
    "TunedKappa",
    "TunedPenalty",
    "Unreadable",
    "Verification",
    "Waiting",
    "Why",
    "WhyGroup",
    "Withdrawal",
]
