"""Meshes: where they are in camera coordinates and in glTF, their parts, what others read in the files."""

import json
import struct
import sys

import numpy as np
import pytest
import trimesh
from nvpanoptix3d_scenes import CATEGORIES, SAMPLE, room_scene, room_view, sample_scene
from scipy import ndimage

from skillbank.errors import RuntimeMissingError
from skillbank_models.nvpanoptix3d import meshes
from skillbank_models.nvpanoptix3d.mesh_borders import cut_at_borders
from skillbank_models.nvpanoptix3d.mesh_files import write_glb, write_ply
from skillbank_models.nvpanoptix3d.meshes import surface_of
from skillbank_models.nvpanoptix3d.outputs import Scene, Segment
from skillbank_models.nvpanoptix3d.scene_segments import UNASSIGNED, scene_segments

LOW, HIGH = np.array([-0.9, -0.2, 2.1]), np.array([0.3, 0.7, 2.9])  # a box, metres in camera coordinates
ISO = 1.25


def box_scene(side=64, label=5):
    """A solid box: distances by scipy from the voxels of its points, which the rule of the grid gives."""
    view = room_view(side)
    fine = [np.arange(a, b, view.grid.voxel / 4) for a, b in zip(LOW, HIGH, strict=True)]
    points = np.stack(np.meshgrid(*fine, indexing="ij"), -1).reshape(-1, 3)
    voxels = np.rint(points / view.grid.voxel + view.origin).astype(int)
    free = np.ones((side,) * 3, bool)
    free[tuple(voxels.T)] = False
    geometry = np.minimum(ndimage.distance_transform_edt(free), 3).astype(np.float32)
    panoptic = np.where(free, 0, 4).astype(np.int32)
    flat = np.zeros((4, 4), np.int32)
    segments = [Segment(4, 0, label, True, 0.8)]
    return Scene(
        flat, [], flat.astype(np.float32), view.camera.matrix(), geometry,
        np.where(free, 0, label).astype(np.int32), panoptic, segments,
    ), view  # fmt: skip


def mesh_of(scene, view, iso=ISO):
    return surface_of(scene, view, scene_segments(scene, CATEGORIES).volume, iso=iso)


class TestPlace:
    @pytest.mark.parametrize("side", [64, 128])
    def test_a_box_is_where_it_was_put_within_half_a_voxel(self, tmp_path, side):
        scene, view = box_scene(side)
        mesh = mesh_of(scene, view)
        write_ply(tmp_path / "a.ply", mesh)
        write_glb(tmp_path / "a.glb", mesh, view.camera)
        grown = ISO * view.grid.voxel  # the mesh runs that far outside the voxels of the box
        expected = np.array([LOW - grown, HIGH + grown])
        half = view.grid.voxel / 2
        read = trimesh.load(tmp_path / "a.ply", process=False)
        assert np.abs(read.bounds - expected).max() <= half
        gltf = trimesh.load(tmp_path / "a.glb", process=False).bounds
        turned = np.array([[1, -1, -1]]) * expected  # y up, looking along -z
        assert np.abs(gltf - np.sort(turned, axis=0)).max() <= half

    def test_faces_and_normals_look_outwards_in_both_files(self, tmp_path):
        scene, view = box_scene()
        mesh = mesh_of(scene, view)
        write_ply(tmp_path / "a.ply", mesh)
        write_glb(tmp_path / "a.glb", mesh, view.camera)
        size = HIGH - LOW + 2 * ISO * view.grid.voxel
        for path in (tmp_path / "a.ply", tmp_path / "a.glb"):
            read = trimesh.load(path, process=False)
            solid = read.to_geometry() if isinstance(read, trimesh.Scene) else read
            # trimesh counts the volume as positive where faces turn counter-clockwise seen from outside;
            # edges of the box are rounded and its voxels half a voxel off at most
            assert np.prod(size - view.grid.voxel) * 0.9 < solid.volume < np.prod(size + view.grid.voxel)
        away = mesh.vertices - (LOW + HIGH) / 2
        assert ((mesh.normals * away).sum(axis=1) > 0).all()
        assert np.allclose(np.linalg.norm(mesh.normals, axis=1), 1, atol=1e-5)

    def test_a_surface_that_leaves_the_grid_is_closed(self):
        scene, view = box_scene()
        scene.geometry[:] = np.minimum(scene.geometry, np.roll(scene.geometry, 40, axis=2))
        scene.geometry[:, 20:30, 0] = 0.0
        mesh = mesh_of(scene, view)
        assert trimesh.Trimesh(mesh.vertices, mesh.faces).is_watertight

    @pytest.mark.skipif(not SAMPLE.is_dir(), reason="the real 3D-Front sample is not here")
    def test_real_segments_are_seen_where_the_image_has_them(self):
        _, scene, view = sample_scene()
        mesh = mesh_of(scene, view)
        assert len(mesh.parts) == 6
        x, y, z = mesh.vertices.T
        u = np.rint(view.camera.fx * x / z + view.camera.cx).astype(int)
        v = np.rint(view.camera.fy * y / z + view.camera.cy).astype(int)
        # pixels by which the mesh exceeds outlines: its thickness, and half a voxel of the grid
        thickness = view.camera.fx * (ISO + 0.5) * view.grid.voxel / z
        seen = 0
        for part in mesh.parts:
            own = np.zeros(len(z), bool)
            own[part.vertices] = True
            own &= (u >= 0) & (u < 320) & (v >= 0) & (v < 240)
            own[own] = np.abs(z[own] - scene.depth[v[own], u[own]]) < 2 * view.grid.voxel
            outside = ndimage.distance_transform_edt(scene.segment_map != part.segment.id)[v[own], u[own]]
            # one pixel for rounding, one for edges in the image
            assert (outside <= thickness[own] + 2).mean() > 0.97, part.name
            seen += int(own.sum())
        assert seen > 10000


class TestParts:
    def test_each_segment_is_a_part_with_vertices_of_its_own(self):
        _, scene, view = room_scene()
        mesh = mesh_of(scene, view)
        assert [part.name for part in mesh.parts] == [
            "wall", "floor", "table", "chair 1", "chair 2", "sofa", "cabinet",
        ]  # fmt: skip
        assert mesh.parts[-1].vertices.stop == len(mesh.vertices) == len(mesh.normals)
        assert mesh.parts[-1].faces.stop == len(mesh.faces)
        place = 0
        for part in mesh.parts:
            assert part.vertices.start == place
            used = np.unique(mesh.faces[part.faces])
            assert used[0] == place
            assert np.array_equal(used, np.arange(place, part.vertices.stop))
            place = part.vertices.stop
        colors = mesh.colors()
        assert colors.shape == mesh.vertices.shape
        assert len(np.unique(colors, axis=0)) == 7

    def test_thin_labels_reach_the_mesh_around_them(self):
        scene, view = box_scene()
        assert [part.name for part in mesh_of(scene, view).parts] == ["table"]

    def test_surfaces_without_a_segment_are_grey_and_stay(self):
        scene, view = box_scene()
        scene.panoptic_volume[:] = 0
        (part,) = mesh_of(scene, view).parts
        assert (part.segment, part.name, part.color) == (None, "unassigned", UNASSIGNED)

    def test_ids_that_no_segment_has_count_as_none(self):
        scene, view = box_scene()
        scene.panoptic_volume[scene.panoptic_volume == 4] = 9
        assert [part.name for part in mesh_of(scene, view).parts] == ["unassigned"]

    def test_nothing_gives_no_mesh(self):
        scene, view = box_scene()
        scene.geometry[:] = 3
        assert mesh_of(scene, view) is None
        scene.geometry = None
        assert mesh_of(scene, view) is None


class TestBorders:
    def test_cut_faces_cover_the_same_area_and_keep_their_side(self):
        rng = np.random.default_rng(0)
        points = np.concatenate([rng.random((40, 2)), np.zeros((40, 1))], axis=1)
        faces = np.array([rng.choice(40, 3, replace=False) for _ in range(30)])
        owners = rng.integers(0, 3, 40)
        assert {len(set(row)) for row in owners[faces].tolist()} == {1, 2, 3}

        def areas(corners):
            a, b, c = corners[:, 0], corners[:, 1], corners[:, 2]
            return np.cross(b - a, c - a)[:, 2] / 2  # signed

        new_faces, new_owners, new_points = cut_at_borders(faces, owners, points)
        assert areas(new_points[new_faces]).sum() == pytest.approx(areas(points[faces]).sum(), abs=1e-12)
        assert np.abs(areas(new_points[new_faces])).sum() == pytest.approx(np.abs(areas(points[faces])).sum())
        assert np.array_equal(new_points[:40], points)
        old = new_faces < 40
        assert (owners[new_faces[old]] == np.repeat(new_owners[:, None], 3, 1)[old]).all()

    def test_faces_of_one_owner_stay(self):
        faces, points = np.array([[0, 1, 2]]), np.eye(3)
        new_faces, owners, new_points = cut_at_borders(faces, np.array([7, 7, 7]), points)
        assert (new_faces.tolist(), owners.tolist(), new_points.tolist()) == (
            [[0, 1, 2]],
            [7],
            points.tolist(),
        )


class TestFiles:
    @pytest.fixture(scope="class")
    @classmethod
    def room(cls):
        _, scene, view = room_scene()
        return mesh_of(scene, view), view

    def test_ply_tells_class_and_segment_of_each_vertex(self, tmp_path, room):
        mesh, _ = room
        write_ply(tmp_path / "a.ply", mesh)
        read = trimesh.load(tmp_path / "a.ply", process=False)
        rows = read.metadata["_ply_raw"]["vertex"]["data"]
        for part in mesh.parts:
            own = rows[part.vertices]
            assert set(own["segment"].tolist()) == {part.segment.id}
            assert set(own["class"].tolist()) == {part.segment.label}
            assert np.array_equal(read.visual.vertex_colors[part.vertices.start, :3], part.color)
        assert np.array_equal(read.vertices.astype(np.float32), mesh.vertices)
        assert np.array_equal(read.faces, mesh.faces)
        header = (tmp_path / "a.ply").read_bytes()[:1200]
        assert b"camera coordinates in metres: x right, y down, z forward" in header
        assert b"segment 4: chair 1, class 3" in header

    def test_glb_has_a_named_node_for_each_segment(self, tmp_path, room):
        mesh, view = room
        write_glb(tmp_path / "a.glb", mesh, view.camera)
        read = trimesh.load(tmp_path / "a.glb", process=False)
        assert set(read.geometry) == {part.name for part in mesh.parts}
        chair = read.geometry["chair 1"]
        assert len(chair.faces) == next(
            p.faces.stop - p.faces.start for p in mesh.parts if p.name == "chair 1"
        )
        raw = (tmp_path / "a.glb").read_bytes()
        magic, version, length, size = struct.unpack("<4sIII", raw[:16])
        assert (magic, version, length) == (b"glTF", 2, len(raw))
        content = json.loads(raw[20 : 20 + size])
        extras = {node["name"]: node.get("extras") for node in content["nodes"]}
        assert (extras["chair 1"]["class_id"], extras["chair 1"]["id"]) == (3, 4)
        lens = content["cameras"][0]["perspective"]
        assert np.tan(lens["yfov"] / 2) == pytest.approx(120 / view.camera.fy)
        assert lens["aspectRatio"] == pytest.approx(320 / 240)

    def test_glb_colours_are_linear(self, tmp_path, room):
        mesh, view = room
        write_glb(tmp_path / "a.glb", mesh, view.camera)
        read = trimesh.load(tmp_path / "a.glb", process=False)
        color = next(part.color for part in mesh.parts if part.name == "wall")
        linear = np.asarray(read.geometry["wall"].visual.vertex_attributes["color"][0, :3]) / 255
        # the power of 2.4 with an offset that sRGB has, undone; half a step of a byte in linear light
        back = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
        assert np.abs(255 * back - color).max() < 2


def test_a_missing_package_is_named_with_the_way_out(monkeypatch):
    monkeypatch.setattr(meshes, "find_spec", lambda name: None)
    with pytest.raises(RuntimeMissingError, match="scikit-image") as caught:
        meshes.require_mesh_packages()
    assert "skillbank[runtime]" in caught.value.hint
    assert "skimage" not in [name for name in vars(meshes) if name in sys.modules]
