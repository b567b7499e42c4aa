"""The page for people who come from the node client: complete, and what it promises is there."""

import dataclasses
import inspect
import re
from pathlib import Path

import pytest
from click.testing import CliRunner

import regaudit as ra
from regaudit import cli, errors, log, manifest
from regaudit.client.registry_v1 import RegistryV1, RepositoryV1
from regaudit.client.repository import BlobUpload, Repository

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs" / "coming-from-node.md").read_text(encoding="utf-8")
# What the package exports, what its two clients can do, and the options that they take.
EXPORTED = """createClient login createClientV2 pingV2 loginV2 digestFromManifestStr MEDIATYPE_MANIFEST_V2
    MEDIATYPE_MANIFEST_LIST_V2 MEDIATYPE_OCI_MANIFEST_V1 MEDIATYPE_OCI_MANIFEST_LIST_V1 manifestTypes manifestListTypes
    createClientV1 pingIndexV1 loginV1 DEFAULT_INDEX_NAME DEFAULT_TAG parseRepo parseIndex parseRepoAndRef
    parseRepoAndTag"""
METHODS = """close ping login supportsV2 listTags getManifest headBlob createBlobReadStream putManifest blobUpload search
    listRepoImgs listRepoTags getImgId getImgAncestry getImgJson getImgLayerStream deleteManifest startBlobUpload
    getBlobUploadStatus uploadBlobChunk completeBlobUpload cancelBlobUpload deleteBlob listRepositories"""
OPTIONS = """name repo log username password token insecure rejectUnauthorized scheme acceptManifestLists
    maxSchemaVersion followRedirects agent proxy userAgent version"""
ERRORS = """InternalError ManifestVerificationError InvalidManifestError DownloadError UploadError UnauthorizedError
    TooManyRedirectsError BadDigestError InvalidContentError"""
CLEANER = "`host` `port` `username` `password` `cutoff_age_days` cron develop master release latest"


@pytest.mark.parametrize("name", [*EXPORTED.split(), *METHODS.split(), *OPTIONS.split(), *ERRORS.split()])
def test_everything_that_the_node_client_has_is_on_the_page(name):
    assert re.search(rf"`[^`]*\b{name}\b[^`]*`", PAGE)


@pytest.mark.parametrize("word", CLEANER.split())
def test_every_rule_of_the_cleaner_is_on_the_page(word):
    assert word in PAGE.partition("## From the tag cleaner")[2]


def mentioned(before):
    """Return the names that follow a word on the page, as in ``registry.ping()``."""
    return sorted(set(re.findall(rf"(?<![\w.]){re.escape(before)}\.([a-z_]\w*)", PAGE, re.IGNORECASE)))


@pytest.mark.parametrize(
    ("before", "owner"),
    [("registry", ra.Registry), ("repository", Repository), ("upload", BlobUpload), ("registry.v1", RegistryV1)],
)
def test_every_method_on_the_page_exists(before, owner):
    found = set(mentioned(before)) - {"example"}  # registry.example.com
    assert found
    assert found <= {*dir(owner), "v1", "address"}


def test_every_method_of_a_v1_repository_on_the_page_exists():
    section = PAGE.partition("## The v1 interface")[2].partition("## Errors")[0]
    found = set(re.findall(r"`\.([a-z_]+)\(", section))
    assert len(found) > 8
    assert found <= set(dir(RepositoryV1))


def test_every_public_name_on_the_page_exists():
    found = set(re.findall(r"\bra\.([A-Za-z_]+)", PAGE))
    assert len(found) > 8
    assert found <= set(ra.__all__)


def test_every_option_on_the_page_exists():
    section = PAGE.partition("## Making a client")[2].partition("## The v2 interface")[0]
    named = set(re.findall(r"\b([a-z_]+)=", section))
    assert len(named) > 10
    assert named <= set(inspect.signature(ra.Registry).parameters)
    given = {"max_schema_version", "accept_indexes", "follow_redirects"}
    assert given <= set(inspect.signature(Repository.manifest).parameters)
    assert all(f"`{name}`" in PAGE for name in given)


def test_every_error_and_constant_on_the_page_exists():
    section = PAGE.partition("## Errors")[2].partition("## The log")[0]
    ours = {
        name
        for row in section.splitlines()
        for cell in row.split(" | ")[1:2]
        for name in re.findall(r"`([A-Z]\w+)`", cell)
    }
    assert len(ours) > 10
    assert [name for name in ours if not hasattr(errors, name)] == []
    for name in ("DOCKER_MANIFEST", "DOCKER_LIST", "OCI_MANIFEST", "OCI_INDEX", "MANIFEST_TYPES", "INDEX_TYPES"):
        assert f"`{name}`" in PAGE
        assert hasattr(manifest, name)
    assert hasattr(log, "show_log")
    assert "signed_by" in {field.name for field in dataclasses.fields(manifest.LegacyManifest)}


def test_every_link_leads_somewhere():
    for target in re.findall(r"\]\(([^)#]+)\)", PAGE):
        assert (ROOT / "docs" / target).exists()


def test_the_command_that_takes_the_cleaners_place_has_these_options():
    shown = CliRunner().invoke(cli.main, ["clean", "--help"]).output
    block = PAGE.partition("## From the tag cleaner")[2].partition("```\n")[2].partition("```")[0].replace("\\\n", " ")
    lines = re.findall(r"regaudit clean [^\n]*", block)
    assert len(lines) == 2
    for option in re.findall(r"(?<= )--?[a-z][a-z-]*", " ".join(lines)):
        assert option in shown
