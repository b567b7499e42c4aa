"""The graph says who holds whom in a repository, and nothing across repositories."""

from builders import Build, blob

from regaudit.analysis.graph import Graph
from regaudit.reference import attached_tag

APP = "team/app"


def graph_of(build, repository=APP):
    return Graph(build.snapshot()).repository(repository)


def two_platforms(build, name="1.0"):
    layers = {"linux/amd64": {f"{name}-a": 10}, "linux/arm64": {f"{name}-b": 10}}
    return build.index(APP, tags=[name], platforms=layers)


def test_an_index_holds_its_children_and_they_know_it():
    build = two_platforms(Build())
    graph, index = graph_of(build), build.digest(APP, "1.0")
    children = {build.digest(APP, f"1.0/linux/{a}") for a in ("amd64", "arm64")}
    assert set(graph.children[index]) == children
    assert all(graph.parents[child] == (index,) for child in children)


def test_a_shared_child_has_both_its_parents():
    build = Build().image(APP, name="child")
    build.index(APP, tags=["a"], children=["child"]).index(APP, tags=["b"], children=["child"], annotations={"n": "2"})
    parents = graph_of(build).parents[build.digest(APP, "child")]
    assert set(parents) == {build.digest(APP, "a"), build.digest(APP, "b")}


def test_the_closure_goes_through_nested_indexes_attestations_and_chains_of_referrers():
    build = Build().image(APP, name="leaf").image(APP, name="proof")
    build.index(APP, name="inner", children=["leaf"], attestations=["proof"]).index(
        APP, tags=["outer"], children=["inner"]
    )
    build.attach(APP, "outer", name="sbom").attach(APP, "sbom", name="signature-of-sbom").image(APP, tags=["other"])
    everything = {build.digest(APP, n) for n in ("leaf", "proof", "inner", "outer", "sbom", "signature-of-sbom")}
    assert graph_of(build).closure([build.digest(APP, "outer")]) == everything


def test_a_closure_within_some_digests_does_not_pass_through_the_others():
    build = Build().image(APP, name="leaf").index(APP, name="inner", children=["leaf"])
    build.index(APP, tags=["outer"], children=["inner"])
    outer, inner, leaf = (build.digest(APP, n) for n in ("outer", "inner", "leaf"))
    graph = graph_of(build)
    assert graph.closure([outer], within={outer, leaf}) == {outer}
    assert graph.closure([outer], within={outer, inner, leaf}) == {outer, inner, leaf}


def test_cosign_and_fallback_tags_tie_what_they_point_to_to_their_subject():
    build = Build().image(APP, tags=["1.0"])
    build.cosign(APP, "1.0", "sig").cosign(APP, "1.0", "att").cosign(APP, "1.0", "sbom")
    build.attach(APP, "1.0", name="attached", fallback=True)
    graph, subject = graph_of(build), build.digest(APP, "1.0")
    base = attached_tag(subject)
    assert graph.attached == dict.fromkeys([base, f"{base}.sig", f"{base}.att", f"{base}.sbom"], subject)
    assert {build.digest(APP, tag) for tag in graph.attached} | {build.digest(APP, "attached")} == set(
        graph.referrers[subject]
    )


def test_a_signature_of_something_that_is_not_there_is_attached_to_nothing():
    build = Build().image(APP, tags=[f"{attached_tag(blob('gone'))}.sig"])
    graph = graph_of(build)
    assert graph.attached == {}
    assert graph.subjects == {}


def test_the_same_digest_in_another_repository_is_another_copy():
    build = two_platforms(Build())
    build.copy(APP, "1.0/linux/amd64", to="team/mirror", tags=["amd64"])
    child = build.digest(APP, "1.0/linux/amd64")
    assert graph_of(build, "team/mirror").parents == {}
    assert graph_of(build).tags_of.get(child) is None


def test_a_tag_without_a_digest_is_listed_and_on_nothing():
    graph = graph_of(Build().image(APP, tags=["1.0"]).dangling(APP, "gone"))
    assert graph.tags["gone"] is None
    assert all("gone" not in tags for tags in graph.tags_of.values())


def test_a_missing_child_is_known_by_its_parent_and_is_no_manifest():
    build = Build().index(APP, tags=["1.0"], platforms={"linux/amd64": {"a": 1}}, missing=["linux/s390x"])
    graph = graph_of(build)
    absent = blob(f"{APP}/1.0/linux/s390x")
    assert absent in graph.children[build.digest(APP, "1.0")]
    assert absent not in graph.manifests


def test_the_component_of_a_digest_is_everything_tied_to_it_and_nothing_else():
    build = two_platforms(two_platforms(Build(), "1.0"), "2.0").cosign(APP, "1.0")
    component = graph_of(build).component(build.digest(APP, "1.0/linux/amd64"))
    assert len(component) == 4
    assert build.digest(APP, "2.0") not in component


def test_a_repository_that_was_not_read_has_an_empty_graph():
    graph = graph_of(Build().image(APP, tags=["1.0"]), "nobody/knows")
    assert (graph.tags, graph.manifests, graph.children) == ({}, frozenset(), {})
