"""Crops as they lie, and what trackers write."""

import math
import sys
import types
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from rtool.errors import DataError, InputError, PlatformError, RtoolError
from rtool.serving.gallery.inputs.sources import CropSource, open_crops
from rtool.serving.gallery.inputs.tracker_text import read_tracker
from rtool.serving.gallery.people.cannot_link import overlapping_tracks


def images(root: Path, *names: str, size: tuple[int, int] = (16, 32)) -> Path:
    for number, name in enumerate(names):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", size, (number * 20 % 255, 80, 120)).save(root / name)
    return root


def opened(spec: Path | str, work: Path, frames: Path | None = None):
    return open_crops(CropSource(str(spec), frames), work)


def test_folders_of_tracks_are_ordered_by_number_and_have_no_times(tmp_path):
    root = images(tmp_path / "crops", "t10/2.png", "t10/10.png", "t2/1.png")
    crops = opened(root, tmp_path)
    assert [track.label for track in crops.tracks] == ["t2", "t10"]
    assert [Path(name).name for name in crops.names] == ["1.png", "2.png", "10.png"]
    assert not crops.timed


def test_one_name_in_two_cameras_is_two_tracks(tmp_path):
    root = images(tmp_path / "crops", "door/7/1.png", "hall/7/1.png", "hall/8/1.png")
    crops = opened(root, tmp_path)
    assert [(track.label, track.camera) for track in crops.tracks] == [
        ("8", "hall"),
        ("door/7", "door"),
        ("hall/7", "hall"),
    ]
    assert crops.camera_numbers.tolist() == [1, 0, 1]


def test_names_of_market_1501_give_cameras_frames_and_the_truth(tmp_path):
    names = ("0002_c1s1_000451_03.jpg", "0002_c1s1_000460_01.jpg", "0003_c1s1_000455_01.jpg", "0002_c2s2_000001_01.jpg")
    root = images(tmp_path / "crops", *names, "-1_c1s1_000451_09.jpg")
    crops = opened(root, tmp_path)
    assert sorted(set(crops.truth)) == ["0002", "0003"]
    assert len(crops.tracks) == 3
    assert crops.timed
    pair = {crops.tracks[n].name for n in overlapping_tracks(crops)[0]}
    assert pair == {"0002s1", "0003s1"}
    assert any("1 images of nobody" in note for note in crops.notes)


def test_a_manifest_states_cameras_frames_and_confidence(tmp_path):
    images(tmp_path, "a.png", "b.png", "c.png")
    (tmp_path / "m.csv").write_text(
        "path,track,camera,frame,confidence\nb.png,1,x,5,\na.png,1,x,2,0.4\nc.png,2,x,3,1\n"
    )
    crops = opened(tmp_path / "m.csv", tmp_path)
    assert crops.names == ("a.png", "b.png", "c.png")
    assert crops.confidence.tolist() == [0.4, 1.0, 1.0]
    assert overlapping_tracks(crops).tolist() == [[0, 1]]
    assert overlapping_tracks(crops, 2).tolist() == []


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("path;track\na.png;1\n", "separates columns by semicolons"),
        ("path,trak\na.png,1\n", "unknown column 'trak'; did you mean track?"),
        ("path,camera\na.png,1\n", "column 'track' is missing"),
        ("path,track,frame\na.png,1,x\n", "line 2: frame must be a whole number from 0, got 'x'"),
        ("path,track,confidence\na.png,1,2\n", "line 2: confidence must be from 0 to 1, got '2'"),
        ("path,track\na.png,1\na.png,2\n", "lines 2 and 3: a.png is listed twice"),
        ("path,track\na.png,1\n./a.png,2\n", "lines 2 and 3: ./a.png is listed twice"),
        ("path,track,track\na.png,1,2\n", "column 'track' occurs twice"),
        ("path,track\na.png\n", "line 2 has another number of cells"),
        ("path,track\n", "no crops"),
    ],
)
def test_a_wrong_manifest_is_refused_by_line(tmp_path, text, said):
    (tmp_path / "m.csv").write_text(text)
    with pytest.raises(DataError, match=said.replace("?", r"\?")):
        opened(tmp_path / "m.csv", tmp_path)


def test_a_manifest_of_windows_and_names_of_any_length_are_read(tmp_path):
    images(tmp_path, "crops/a.png", "crops/b.png", "crops/c.png")
    long = "7" * 5000
    (tmp_path / "m.csv").write_text(f"path,track,frame\ncrops\\a.png,{long},1\ncrops\\b.png,9,2\ncrops/c.png,9,\n")
    crops = opened(tmp_path / "m.csv", tmp_path)
    assert [track.label for track in crops.tracks] == ["9", long]
    assert [image.size for image in (crops.images[n] for n in range(3))] == [(16, 32)] * 3
    assert crops.notes == ("1 of 3 crops have no frame, so that frames are not used",)
    assert not crops.timed


FORMS = {
    "MOT, commas": "1,3,10,20,30,60,0.9,-1,-1,-1\n2,3,12,20,30,60,0.8,-1,-1,-1\n2,-1,0,0,9,9,0.8,-1,-1,-1\n",
    "BoxMOT, commas": "1,3,10,20,30,60,1,0,0.9\n2,3,12,20,30,60,1,0,0.8\n2,4,0,0,9,9,1,2,0.8\n",
    "BoxMOT, older, spaces": "1 3 10 20 30 60 0 0 -1\n2 3 12 20 30 60 0 0 -1\n2 4 0 0 9 9 0 2 -1\n",
    "KITTI": "1 3 Pedestrian 0 0 -1.5 10 20 40 80 1 1 1 0 0 0 0\n2 3 Pedestrian 0 0 -1.5 12 20 42 80 1 1 1 0 0 0 0\n"
    "2 4 Car 0 0 -1.5 0 0 9 9 1 1 1 0 0 0 0\n",
}


@pytest.mark.parametrize("form", FORMS)
def test_the_forms_of_trackers_are_told_apart(tmp_path, form):
    (tmp_path / "tracks.txt").write_text(FORMS[form])
    text = read_tracker(tmp_path / "tracks.txt")
    assert text.form == form
    assert text.first_frame == (0 if form == "KITTI" else 1)
    assert [(box.frame, box.track, box.left, box.top, box.right, box.bottom) for box in text.boxes] == [
        (1, "3", 10, 20, 40, 80),
        (2, "3", 12, 20, 42, 80),
    ]
    known = [box.confidence for box in text.boxes]
    assert known == [0.9, 0.8] or form == "BoxMOT, older, spaces" or all(map(math.isnan, known))
    assert any("1 boxes" in note for note in text.notes)


def test_boxes_are_cut_out_of_frames_and_clipped(tmp_path):
    draw = np.random.default_rng(0)
    frames = [draw.integers(0, 255, (50, 80, 3), dtype=np.uint8) for _ in range(2)]
    (tmp_path / "frames").mkdir()
    for number, pixels in enumerate(frames, 1):
        Image.fromarray(pixels).save(tmp_path / "frames" / f"{number:06d}.png")
    (tmp_path / "t.txt").write_text(
        "1,1,5,6,20,40,0.9,-1,-1,-1\n2,1,-5,6,20,60,0.9,-1,-1,-1\n1,2,30,5,10,20,1,-1,-1,-1\n2,2,200,5,10,20,1,-1,-1,-1\n"
    )
    (tmp_path / "work").mkdir()
    crops = opened(tmp_path / "t.txt", tmp_path / "work", tmp_path / "frames")
    assert [(crops.tracks[t].label, f) for t, f in zip(crops.track, crops.frame, strict=True)] == [
        ("1", 1),
        ("1", 2),
        ("2", 1),
    ]
    assert [crops.images[n].size for n in range(3)] == [(20, 40), (15, 44), (10, 20)]
    assert np.abs(np.asarray(crops.images[0], dtype=int) - frames[0][6:46, 5:25]).mean() < 12  # JPEG of noise
    assert crops.at_edge.tolist() == [False, True, False]
    assert str(crops.paths[0]) == "crops/1/00000001.jpg"
    assert any("1 boxes outside of the frame" in note for note in crops.notes)


def test_labels_of_ultralytics_and_tracklets_give_the_same_boxes(tmp_path):
    images(tmp_path / "frames", "v_1.png", "v_2.png", size=(100, 200))
    (tmp_path / "labels").mkdir()
    (tmp_path / "labels" / "v_1.txt").write_text("0 0.5 0.5 0.2 0.4 0.9 7\n")
    (tmp_path / "labels" / "v_2.txt").write_text("0 0.5 0.5 0.2 0.4 7\n")
    ids, boxes = np.array([7, 7]), np.array([[40.0, 60, 60, 140]] * 2)
    np.savez(tmp_path / "t.npz", track_ids=ids, frame_numbers=np.array([0, 1]), bboxes=boxes)
    for number, source in enumerate(("labels", "t.npz")):
        work = tmp_path / f"work{number}"
        work.mkdir()
        crops = opened(tmp_path / source, work, tmp_path / "frames")
        assert [crops.images[n].size for n in range(2)] == [(20, 80)] * 2
        assert crops.tracks[0].label == "7"
    np.savez(tmp_path / "o.npz", tracklets=np.array([{"frame_numbers": [1]}], dtype=object))
    with pytest.raises(InputError, match="expected the plain arrays track_ids"):
        opened(tmp_path / "o.npz", work, tmp_path / "frames")


def test_crops_saved_by_trackers(tmp_path):
    root = images(tmp_path / "boxmot", "crops/person/3/10.png", "crops/person/4/10.png", "crops/car/5/10.png")
    crops = opened(root, tmp_path)
    assert [track.label for track in crops.tracks] == ["3", "4"]
    assert crops.timed
    alone = opened(images(tmp_path / "yolo", "crops/person/im.png", "crops/person/im2.png"), tmp_path)
    assert len(alone.tracks) == 2
    assert not alone.timed
    assert any("each is a track of its own" in note for note in alone.notes)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "is empty"),
        ("1,2,3\n", "line 1: expected frame,id,left,top,width,height"),
        ("1,1,a,b,c,d\n", "no box of a person is left|expected"),
        ("1.5,1,0,0,9,9,1,-1,-1,-1\n", "frame and id must be whole numbers"),
        ("1,1,0,0,0,9,1,-1,-1,-1\n", "no box of a person is left .*1 boxes of no area"),
        ("9,1,0,0,9,9,1,-1,-1,-1\n", "no frame 9; it holds 1 images"),
        ("frame,id,left,top,width,height,conf\n", "line 1: .* remove the line if it is a header"),
        ("1,1,1e308,0,1e308,9,1,-1,-1,-1\n", "line 1: expected frame,id,left"),
        ("1,1e300,0,0,9,9,1,-1,-1,-1\n", "line 1: expected frame,id,left"),
        ("1,1,1_0,0,9,9,1,-1,-1,-1\n", "line 1: expected frame,id,left"),
    ],
)
def test_a_wrong_text_is_refused_by_line(tmp_path, text, said):
    images(tmp_path / "frames", "1.png")
    (tmp_path / "t.txt").write_text(text)
    with pytest.raises(RtoolError, match=said):
        opened(tmp_path / "t.txt", tmp_path, tmp_path / "frames")


def test_a_video_needs_opencv_and_one_that_cannot_be_decoded_is_named(tmp_path, monkeypatch):
    (tmp_path / "t.txt").write_text("1,1,0,0,9,9,1,-1,-1,-1\n")
    (tmp_path / "v.mp4").write_bytes(b"no video")
    monkeypatch.setitem(sys.modules, "cv2", None)
    with pytest.raises(PlatformError, match=r"a video needs OpenCV: .*ffmpeg -i v.mp4 frames/%06d.jpg"):
        opened(tmp_path / "t.txt", tmp_path, tmp_path / "v.mp4")
    closed = types.SimpleNamespace(read=lambda: (False, None), release=lambda: None)
    monkeypatch.setitem(sys.modules, "cv2", types.SimpleNamespace(VideoCapture=lambda name: closed))
    with pytest.raises(InputError, match="the video cannot be decoded at frame 1 of 1"):
        opened(tmp_path / "t.txt", tmp_path, tmp_path / "v.mp4")
    with pytest.raises(InputError, match="no such folder of frames or video"):
        opened(tmp_path / "t.txt", tmp_path, tmp_path / "none.mp4")
    (tmp_path / "t.txt").write_text("0,1,0,0,9,9,1,-1,-1,-1\n")
    with pytest.raises(DataError, match="no frame 0; the frames of a video are counted from 1"):
        opened(tmp_path / "t.txt", tmp_path, tmp_path / "v.mp4")


BOX = np.array([[2.0, 2, 9, 20], [2, 2, 9, 20]])


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"track_ids": np.array(["a", "b"])}, "expected the plain arrays .* track_ids <U1"),
        ({"track_ids": np.array(3)}, r"track_ids int64 \[\]"),
        ({"track_ids": np.array([1.0, np.nan])}, r"track_ids must be whole numbers, got nan at \[1\]"),
        ({"track_ids": np.array([1.2, 1.7])}, r"track_ids must be whole numbers, got 1.2 at \[0\]"),
        ({"frame_numbers": np.array([0, np.inf])}, r"frame_numbers must be whole numbers, got inf at \[1\]"),
        ({"bboxes": BOX + 0j}, "bboxes complex128"),
        ({"bboxes": BOX * 1e300}, r"bboxes must be pixels, got .* at \[0\]"),
        ({"confidences": np.ones((2, 2))}, r"confidences float64 \[2, 2\]"),
    ],
)
def test_tracklets_of_other_types_or_sizes_are_refused(tmp_path, changed, said):
    arrays = {"track_ids": np.array([1, 1]), "frame_numbers": np.array([0, 1]), "bboxes": BOX}
    np.savez(tmp_path / "t.npz", **(arrays | changed))
    with pytest.raises(DataError, match=said):
        opened(tmp_path / "t.npz", tmp_path, images(tmp_path / "frames", "0.png", "1.png"))


def cut_from(tmp_path: Path, frames: Path, wanted: tuple[int, int]):
    """Colours of the frames that the boxes of frames `wanted` are cut from, and the notes."""
    (tmp_path / "t.txt").write_text("".join(f"{n},1,0,0,16,32,1,-1,-1,-1\n" for n in wanted))
    (tmp_path / "work").mkdir()
    crops = opened(tmp_path / "t.txt", tmp_path / "work", frames)
    return [crops.images[n].getpixel((5, 5))[0] // 20 for n in range(2)], crops.notes


def test_frames_go_by_the_numbers_in_their_names_whatever_lies_beside(tmp_path):
    frames = images(tmp_path / "frames", "cover.png", "f2.png", "f3.png", "f10.png")  # colours 0 to 3
    assert cut_from(tmp_path, frames, (3, 10))[0] == [2, 3]


def test_frames_numbered_from_another_number_are_counted_and_that_is_said(tmp_path):
    frames = images(tmp_path / "frames", *(f"f{n}.png" for n in range(12)))
    colours, notes = cut_from(tmp_path, frames, (3, 12))
    assert colours == [2, 11]
    assert "frames: frames are counted in the order of names, f0.png is frame 1" in notes


def test_missing_frames_are_not_made_good_by_counting(tmp_path):
    frames = images(tmp_path / "frames", "2.png", "3.png", "5.png")
    with pytest.raises(DataError, match="no frame 4; the numbers in the names of its images go from 2 to 5"):
        cut_from(tmp_path, frames, (3, 4))
