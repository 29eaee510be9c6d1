"""The KubeRay files of cluster/, and a schema after KubeRay's API reference that knows only the fields they use."""

from pathlib import Path

import yaml
from jsonschema import Draft202012Validator

ROOT = Path(__file__).parents[2]

# KubeRay's own schema comes with its operator only, not with a Python package. This one has the documented fields of
# ray.io/v1 in KubeRay 1.7 that the files use, and knows no others. So a misspelt field fails here, where the API server would
# drop it in silence.
NAME = {"type": "string", "pattern": "^[a-z]([-a-z0-9]*[a-z0-9])?$", "maxLength": 47}
STRINGS = {"type": "object", "additionalProperties": {"type": "string"}}
COUNT = {"type": "integer", "minimum": 0}
RESOURCES = {
    "type": "object",
    "properties": {"limits": STRINGS, "requests": STRINGS},
    "required": ["limits", "requests"],
    "additionalProperties": False,
}
BOOLEAN = {"type": "boolean"}


def nested(*names, inner):
    """An object with one field, in which is an object with one field, and so on; none may be left out."""
    for name in reversed(names):
        inner = {"type": "object", "properties": {name: inner}, "required": [name], "additionalProperties": False}
    return inner


SECRET = {
    "type": "object",
    "properties": {"name": NAME, "key": {"type": "string"}},
    "required": ["name", "key"],
    "additionalProperties": False,
}
FROM_SECRET = nested("secretKeyRef", inner=SECRET)
ENVIRONMENT = {
    "type": "array",
    "items": {
        "type": "object",
        "properties": {"name": {"type": "string"}, "value": {"type": "string"}, "valueFrom": FROM_SECRET},
        "required": ["name"],
        "oneOf": [{"required": ["value"]}, {"required": ["valueFrom"]}],
        "additionalProperties": False,
    },
}
SECURITY = {
    "allowPrivilegeEscalation": {"const": False},
    "capabilities": nested("drop", inner={"const": ["ALL"]}),
    "readOnlyRootFilesystem": {"const": True},
}
POD_SECURITY = {
    "runAsNonRoot": {"const": True},
    "runAsUser": {"type": "integer", "minimum": 1},
    "fsGroup": {"type": "integer", "minimum": 1},
    "seccompProfile": nested("type", inner={"const": "RuntimeDefault"}),
}
CONTAINER = {
    "type": "object",
    "properties": {
        "name": NAME,
        "image": {"type": "string", "pattern": "^[^: ]+:[^: ]+$"},
        "ports": {
            "type": "array",
            "items": {
                "type": "object",
                "properties": {"containerPort": {"type": "integer"}, "name": {"type": "string", "maxLength": 15}},
                "required": ["containerPort"],
                "additionalProperties": False,
            },
        },
        "env": ENVIRONMENT,
        "args": {"type": "array", "items": {"type": "string"}},
        "securityContext": {"type": "object", "properties": SECURITY, "additionalProperties": False},
        "volumeMounts": {"type": "array", "items": {"type": "object", "required": ["name", "mountPath"]}},
        "resources": RESOURCES,
    },
    "required": ["name", "image", "resources", "securityContext"],
    "additionalProperties": False,
}
TOLERATION = {
    "type": "object",
    "properties": {
        "key": {"type": "string"},
        "operator": {"enum": ["Exists", "Equal"]},
        "value": {"type": "string"},
        "effect": {"enum": ["NoSchedule", "PreferNoSchedule", "NoExecute"]},
    },
    "additionalProperties": False,
}
NODE_EXPRESSION = {
    "type": "object",
    "properties": {
        "key": {"type": "string"},
        "operator": {"enum": ["In", "NotIn", "Exists", "DoesNotExist", "Gt", "Lt"]},
        "values": {"type": "array", "items": {"type": "string"}},
    },
    "required": ["key", "operator"],
    "additionalProperties": False,
}

AFFINITY = nested(
    "nodeAffinity",
    "requiredDuringSchedulingIgnoredDuringExecution",
    "nodeSelectorTerms",
    inner={"type": "array", "items": nested("matchExpressions", inner={"type": "array", "items": NODE_EXPRESSION})},
)
TEMPLATE = {
    "type": "object",
    "properties": {
        "metadata": nested("labels", inner=STRINGS),
        "spec": {
            "type": "object",
            "properties": {
                "serviceAccountName": NAME,
                "automountServiceAccountToken": BOOLEAN,
                "securityContext": {"type": "object", "properties": POD_SECURITY, "additionalProperties": False},
                "restartPolicy": {"const": "Never"},  # the operator refuses others with autoscaler v2
                "nodeSelector": STRINGS,
                "affinity": AFFINITY,
                "tolerations": {"type": "array", "items": TOLERATION},
                "containers": {"type": "array", "minItems": 1, "items": CONTAINER},
            },
            "required": ["containers", "securityContext"],
            "additionalProperties": False,
        },
    },
    "required": ["spec"],
    "additionalProperties": False,
}
RAY_CLUSTER_SPEC = {
    "type": "object",
    "properties": {
        "rayVersion": {"type": "string", "pattern": r"^\d+\.\d+\.\d+$"},
        "authOptions": {
            "type": "object",
            "properties": {"mode": {"enum": ["disabled", "token"]}},
            "additionalProperties": False,
        },
        "gcsFaultToleranceOptions": {
            "type": "object",
            "properties": {
                "redisAddress": {"type": "string"},
                "redisUsername": nested("valueFrom", inner=FROM_SECRET),
                "redisPassword": nested("valueFrom", inner=FROM_SECRET),
                "externalStorageNamespace": {"type": "string"},
            },
            "required": ["redisAddress"],
            "additionalProperties": False,
        },
        "enableInTreeAutoscaling": BOOLEAN,
        "autoscalerOptions": {
            "type": "object",
            "properties": {
                "idleTimeoutSeconds": COUNT,
                "upscalingMode": {"enum": ["Default", "Aggressive", "Conservative"]},
                "version": {"enum": ["v1", "v2"]},
                "resources": RESOURCES,
                "imagePullPolicy": {"enum": ["Always", "IfNotPresent", "Never"]},
                "env": ENVIRONMENT,
            },
            "additionalProperties": False,
        },
        "headGroupSpec": {
            "type": "object",
            "properties": {
                "serviceType": {"enum": ["ClusterIP", "NodePort", "LoadBalancer"]},
                "enableIngress": BOOLEAN,
                "rayStartParams": STRINGS,
                "template": TEMPLATE,
            },
            "required": ["template"],
            "additionalProperties": False,
        },
        "workerGroupSpecs": {
            "type": "array",
            "items": {
                "type": "object",
                "properties": {
                    "groupName": NAME,
                    "replicas": COUNT,
                    "minReplicas": COUNT,
                    "maxReplicas": COUNT,
                    "numOfHosts": COUNT,
                    "idleTimeoutSeconds": COUNT,
                    "priority": {"type": "integer"},  # since KubeRay 1.7
                    "rayStartParams": STRINGS,
                    "template": TEMPLATE,
                },
                "required": ["groupName", "template"],
                "additionalProperties": False,
            },
        },
    },
    "required": ["headGroupSpec"],
    "additionalProperties": False,
}
RAY_JOB_SPEC = {
    "type": "object",
    "properties": {
        "entrypoint": {"type": "string", "minLength": 1},
        "runtimeEnvYAML": {"type": "string"},
        "submissionMode": {"enum": ["K8sJobMode", "HTTPMode", "InteractiveMode", "SidecarMode"]},
        "clusterSelector": STRINGS | {"required": ["ray.io/cluster"]},
        "rayClusterSpec": RAY_CLUSTER_SPEC,
        "shutdownAfterJobFinishes": BOOLEAN,
        "ttlSecondsAfterFinished": COUNT,
        "activeDeadlineSeconds": COUNT | {"minimum": 1},
        "preRunningDeadlineSeconds": COUNT | {"minimum": 1},
        "backoffLimit": COUNT,
        "suspend": BOOLEAN,
    },
    "required": ["entrypoint"],
    "oneOf": [{"required": ["clusterSelector"]}, {"required": ["rayClusterSpec"]}],
    # On a cluster that is there the operator refuses repeats, and the end of the cluster.
    "not": {
        "required": ["clusterSelector"],
        "anyOf": [{"required": ["backoffLimit"]}, {"required": ["shutdownAfterJobFinishes"]}],
    },
    "dependentRequired": {"ttlSecondsAfterFinished": ["shutdownAfterJobFinishes"]},
    "additionalProperties": False,
}
RAY_CRON_JOB_SPEC = {
    "type": "object",
    "properties": {
        "schedule": {"type": "string", "pattern": r"^\S+( \S+){4}$"},
        "timeZone": {"type": "string"},
        "suspend": BOOLEAN,
        "jobTemplate": RAY_JOB_SPEC,
    },
    "required": ["schedule", "jobTemplate"],
    "additionalProperties": False,
}
RAY_SERVICE_SPEC = {
    "type": "object",
    "properties": {
        "serveConfigV2": {"type": "string", "minLength": 1},
        "rayClusterConfig": RAY_CLUSTER_SPEC,
        "excludeHeadPodFromServeSvc": BOOLEAN,
        "upgradeStrategy": nested("type", inner={"enum": ["NewCluster", "None"]}),
        "rayClusterDeletionDelaySeconds": COUNT,
        "suspend": BOOLEAN,
    },
    "required": ["serveConfigV2", "rayClusterConfig"],
    "additionalProperties": False,
}
SERVICE_SPEC = {
    "type": "object",
    "properties": {"selector": STRINGS, "ports": {"type": "array", "items": nested("port", inner=COUNT)}},
    "required": ["selector", "ports"],
    "additionalProperties": False,
}
STATEFUL_SET_SPEC = {
    "type": "object",
    "properties": {
        "serviceName": NAME,
        "replicas": COUNT,
        "selector": nested("matchLabels", inner=STRINGS),
        "template": TEMPLATE,
        "volumeClaimTemplates": {"type": "array"},
    },
    "required": ["serviceName", "selector", "template"],
    "additionalProperties": False,
}
PORTS = {
    "type": "array",
    "items": {
        "type": "object",
        "properties": {"protocol": {"enum": ["TCP", "UDP"]}, "port": COUNT},
        "required": ["protocol", "port"],
        "additionalProperties": False,
    },
}
PEERS = {
    "type": "array",
    "items": {
        "type": "object",
        "properties": {
            "podSelector": nested("matchLabels", inner=STRINGS),
            "namespaceSelector": nested("matchLabels", inner=STRINGS),
            "ipBlock": nested("cidr", inner={"type": "string"}),
        },
        "additionalProperties": False,
    },
}


def rules(peers):
    properties = {peers: PEERS, "ports": PORTS}
    return {"type": "array", "items": {"type": "object", "properties": properties, "additionalProperties": False}}


NETWORK_POLICY_SPEC = {
    "type": "object",
    "properties": {
        "podSelector": nested("matchLabels", inner=STRINGS),
        "policyTypes": {"type": "array", "items": {"enum": ["Ingress", "Egress"]}},
        "ingress": rules("from"),
        "egress": rules("to"),
    },
    "required": ["podSelector", "policyTypes"],
    "additionalProperties": False,
}
SPECS = {
    "RayCluster": ("ray.io/v1", RAY_CLUSTER_SPEC),
    "RayJob": ("ray.io/v1", RAY_JOB_SPEC),
    "RayService": ("ray.io/v1", RAY_SERVICE_SPEC),
    "RayCronJob": ("ray.io/v1", RAY_CRON_JOB_SPEC),
    "NetworkPolicy": ("networking.k8s.io/v1", NETWORK_POLICY_SPEC),
    "Service": ("v1", SERVICE_SPEC),
    "StatefulSet": ("apps/v1", STATEFUL_SET_SPEC),
}


def check(manifest):
    """Raises ValidationError unless the API server would keep every field and the operator would accept them."""
    version, spec = SPECS.get(manifest["kind"], ("", {}))
    schema = {
        "properties": {
            "apiVersion": {"const": version},
            "kind": {"enum": list(SPECS)},
            "metadata": {
                "type": "object",
                "oneOf": [{"required": ["name"]}, {"required": ["generateName"]}],
                "properties": {"name": NAME, "generateName": {"type": "string", "maxLength": 42}, "namespace": NAME},
                "additionalProperties": False,
            },
            "spec": spec,
        },
        "required": ["apiVersion", "kind", "metadata", "spec"],
        "additionalProperties": False,
    }
    Draft202012Validator.check_schema(schema)
    Draft202012Validator(schema).validate(manifest)


def documents(name):
    return list(yaml.safe_load_all((ROOT / "cluster" / f"{name}.yaml").read_text()))


def only(name, kind):
    (document,) = [document for document in documents(name) if document["kind"] == kind]
    return document
