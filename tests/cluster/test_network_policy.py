"""The network policy of the KubeRay files: who reaches whom, by Kubernetes' rules."""

from kuberay_files import documents, only

HERE = "default"  # the namespace of everything but the operator
OPERATOR = {"app.kubernetes.io/name": "kuberay-operator"}
OTHER = {"app": "other"}


def selects(selector, labels):
    return selector["matchLabels"].items() <= labels.items()


def is_named(peer, labels, namespace):
    """Whether a peer of a rule stands for a pod with these labels in this namespace."""
    if "ipBlock" in peer:
        return False
    if "namespaceSelector" in peer:
        inside = selects(peer["namespaceSelector"], {"kubernetes.io/metadata.name": namespace})
    else:
        inside = namespace == HERE
    return inside and ("podSelector" not in peer or selects(peer["podSelector"], labels))


def allowed(direction, pod, other, namespace, port):
    """Whether the policies let this pod take (or open) a TCP connection from (or to) the other one."""
    policies = [document["spec"] for document in documents("kuberay-network-policy")]
    bound = [spec for spec in policies if direction in spec["policyTypes"] and selects(spec["podSelector"], pod)]
    peers = {"Ingress": "from", "Egress": "to"}[direction]
    return not bound or any(
        ("ports" not in rule or {"protocol": "TCP", "port": port} in rule["ports"])
        and (peers not in rule or any(is_named(peer, other, namespace) for peer in rule[peers]))
        for spec in bound
        for rule in spec.get(direction.lower(), [])
    )


def may_reach(source, target, port, namespace=HERE):
    leaves = namespace != HERE or allowed("Egress", source, target, HERE, port)
    return leaves and allowed("Ingress", target, source, namespace, port)


def pods():
    """Labels of a head, of a worker and of Redis; KubeRay adds the type of node."""
    spec = only("kuberay-cluster", "RayCluster")["spec"]
    head = spec["headGroupSpec"]["template"]["metadata"]["labels"] | {"ray.io/node-type": "head"}
    (worker,) = {tuple(group["template"]["metadata"]["labels"].items()) for group in spec["workerGroupSpecs"]}
    redis = only("kuberay-cluster", "StatefulSet")["spec"]["template"]["metadata"]["labels"]
    return head, dict(worker) | {"ray.io/node-type": "worker"}, redis


def test_the_head_is_reached_by_its_cluster_and_by_the_operator_only():
    head, worker, redis = pods()
    for port in (6379, 8265, 10001, 31234):
        assert may_reach(worker, head, port)
        assert may_reach(head, worker, port)
        for stranger in (OTHER, redis):
            assert not may_reach(stranger, head, port)
            assert not may_reach(stranger, worker, port)
        assert may_reach(OPERATOR, head, port, namespace="kuberay-operator") == (port == 8265)
        assert not may_reach(OPERATOR, worker, port, namespace="kuberay-operator")
        assert not may_reach(OPERATOR, head, port, namespace="elsewhere")


def test_redis_is_reached_by_the_cluster_only():
    head, _, redis = pods()
    assert may_reach(head, redis, 6379)
    assert may_reach(head | {"ray.io/node-type": "redis-cleanup"}, redis, 6379)  # when a cluster is deleted
    assert not may_reach(head, redis, 22)
    assert not may_reach(OTHER, redis, 6379)
    assert not may_reach(redis, OTHER, 443)


def test_clusters_reach_storage_and_names():
    """Anything else stays inside: a rule without peers is for every address."""
    egress = documents("kuberay-network-policy")[0]["spec"]["egress"]
    assert [{port["port"] for port in rule["ports"]} for rule in egress if "to" not in rule] == [{443, 6443}]
    assert {"protocol": "UDP", "port": 53} in [port for rule in egress for port in rule.get("ports", [])]
    head, *_ = pods()
    assert not may_reach(head, OTHER, 80)
