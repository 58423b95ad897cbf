"""The GPU kernel of decode attention against the reference; without a GPU, in the interpreter."""

import pytest
import torch

from snello.config.model import CacheShape, Horizon
from snello.ops.page_attend import resolve
from tests.ops.page_scene import build_scene

pytest.importorskip("triton")
pytestmark = pytest.mark.gpu
RAGGED = [[1, 63], [0, 200], [128, 5]]


@pytest.fixture
def _small_tiles(monkeypatch):
    """Many tiles from few tokens; what they are on a device takes the interpreter too long."""
    from snello.ops.page_attend import triton as kernels

    tiling = kernels.Tiling(64, 32, 16, num_warps=4, num_stages=2)
    monkeypatch.setattr(kernels, "choose_tiling", lambda *_: tiling)


def make_shape(key_size=8, value_size=8, **given):
    return CacheShape(num_heads=2, key_size=key_size, value_size=value_size, **given)


def read(scene, backend):
    q = scene.q if backend == "triton" else scene.q.float()
    out = torch.full((*q.shape[:2], scene.shape.value_size), 7.0, dtype=q.dtype, device=q.device)
    num_seen = torch.full_like(scene.news.rows, 5)
    given = q, *scene[1:4], scene.shape
    resolve(backend)(*given, scale=0.3, out=out, num_seen=num_seen)
    return out.float(), num_seen


def compare(scene):
    """Against the reference in float32, with half of the last place of the output to spare."""
    out, num_seen = read(scene, "triton")
    expected, expected_seen = read(scene, "reference")
    tolerance = max(2 * torch.finfo(scene.q.dtype).eps, 1e-5)
    torch.testing.assert_close(out, expected, rtol=tolerance, atol=tolerance)
    assert num_seen.tolist() == expected_seen.tolist()


@pytest.mark.usefixtures("_small_tiles")
@pytest.mark.parametrize("group", [1, 2, 4, 7])
def test_groups_of_heads_of_uneven_length(group, device):
    compare(build_scene(RAGGED, make_shape(), group=group, device=device))


@pytest.mark.usefixtures("_small_tiles")
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_and_sizes_that_are_no_power_of_two(dtype, device):
    shape = make_shape(key_size=20, value_size=12)
    compare(build_scene(RAGGED, shape, group=2, dtype=dtype, device=device))


@pytest.mark.usefixtures("_small_tiles")
def test_bytes_are_read_as_float8(device):
    store_dtype = torch.float8_e4m3fn
    scene = build_scene(RAGGED, make_shape(), group=2, store_dtype=store_dtype, device=device)
    compare(scene)


@pytest.mark.usefixtures("_small_tiles")
@pytest.mark.parametrize("kind", ["sliding", "chunked"])
def test_a_horizon_hides_what_is_behind_it(kind, device):
    shape = make_shape(horizon=Horizon(kind=kind, span_tokens=50))
    compare(build_scene(RAGGED, shape, group=2, device=device))


@pytest.mark.usefixtures("_small_tiles")
@pytest.mark.parametrize("key_size", [24, 16])
def test_a_value_in_the_key_with_more_heads_than_one_block_holds(key_size, device):
    shape = CacheShape(num_heads=1, key_size=key_size, value_size=16, value_in_key=True)
    compare(build_scene([[70], [0], [1]], shape, group=20, device=device))


def test_tiles_as_they_are_on_a_device(device):
    shape = CacheShape(num_heads=1, key_size=8, value_size=8)
    compare(build_scene([[300], [0]], shape, group=1, page_tokens=16, device=device))


@pytest.mark.usefixtures("_small_tiles")
def test_who_shares_the_call_changes_no_bit(device):
    scene = build_scene(RAGGED, make_shape(), group=2, device=device)
    together, _ = read(scene, "triton")
    for b, row in enumerate(scene.news.rows.tolist()):
        alone = scene._replace(news=type(scene.news)(*(part[b : b + 1] for part in scene.news)))
        assert torch.equal(read(alone, "triton")[0][row], together[row])
