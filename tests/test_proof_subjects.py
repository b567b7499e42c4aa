"""An index that was pushed by digest and signed has no tag of its own, and still needs its children.

The state machine of `test_proof_stateful` found that nothing read it: what a signature is about is now read too.
"""

import pytest
from test_cleaner import APP, image, index, only, opened

from regaudit.cleaner.plan import plan
from regaudit.inventory.collect import collect
from regaudit.manifest import OCI_EMPTY
from regaudit.reference import Digest, attached_tag


@pytest.fixture(params=[True, False], ids=["referrers", "no referrers"])
def shop(tmp_path, request):
    with opened(tmp_path, referrers=request.param) as shop:
        yield shop


def by_subject(store, digest):
    image(store, APP, "sbom", "sbom", subject=digest, config_type=OCI_EMPTY)


def by_tag(store, digest):
    image(store, APP, "signature", f"{attached_tag(Digest(digest))}.sig")


ways = pytest.mark.parametrize("sign", [by_subject, by_tag])


@ways
def test_a_child_of_a_signed_index_without_a_tag_is_refused(shop, sign):
    child = image(shop.store, APP, "x", "x")
    top = index(shop.store, APP, [child])
    sign(shop.store, top)
    snapshot = collect(shop.registry, progress=False)
    assert dict(zip(snapshot.manifests["digest"], snapshot.manifests["discovered_by"], strict=True))[top] == "referrer"
    made = plan(snapshot, [f"{APP}:x"])
    assert made.rows == ()
    assert [row.refusal for row in made.refused] == ["child_of_kept_index"]


@ways
def test_a_child_of_an_index_that_was_signed_after_the_review_is_kept(shop, sign):
    child = image(shop.store, APP, "x", "x")
    made = shop.plan("x")
    sign(shop.store, index(shop.store, APP, [child]))
    assert only(shop.execute(made)) == "skipped"
    assert child in shop.store.digests(APP)


@ways
def test_a_signature_whose_subject_is_gone_is_no_problem(shop, sign):
    top = index(shop.store, APP, [image(shop.store, APP, "x", "x")])
    sign(shop.store, top)
    shop.store.drop_manifest(APP, top)
    snapshot = collect(shop.registry, progress=False)
    assert snapshot.complete
    assert snapshot.problems.empty
