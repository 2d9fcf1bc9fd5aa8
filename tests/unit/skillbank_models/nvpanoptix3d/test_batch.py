"""What passes between loader processes and the training."""

import pickle
from multiprocessing.reduction import ForkingPickler

import numpy as np
import pytest
from torch.utils.data import DataLoader, Dataset

from skillbank_models.nvpanoptix3d.batch import VolumeTruth

SIDE = 64


def truth():
    volume = np.arange(SIDE**3, dtype=np.int32).reshape(SIDE, SIDE, SIDE)
    return VolumeTruth(volume, {1: 10, 4: 3}, volume.astype(np.float32) / 7)


class _Truths(Dataset):
    def __len__(self):
        return 2

    def __getitem__(self, index):
        return truth()


def one(samples):
    return samples[0]


@pytest.mark.parametrize("workers", [0, 1])
def test_an_annotated_volume_comes_through_a_loader(workers):
    for found in DataLoader(_Truths(), collate_fn=one, num_workers=workers):
        assert np.array_equal(found.segment_map, truth().segment_map)
        assert np.array_equal(found.distance, truth().distance)
        assert found.distance.dtype == np.float32
        assert found.labels == {1: 10, 4: 3}


def test_its_voxels_do_not_go_through_the_pipe():
    assert len(ForkingPickler.dumps(truth())) < 10_000
    again = pickle.loads(pickle.dumps(truth()))
    assert np.array_equal(again.segment_map, truth().segment_map)
