import numpy as np
import torch

from lepton_tasks.models.inference import predict


def test_a_memory_map_is_predicted_batch_by_batch_in_order(tmp_path):
    rows = np.arange(1200 * 2, dtype=np.uint8).reshape(1200, 2)
    np.save(tmp_path / "rows.npy", rows)

    class Sum(torch.nn.Linear):
        sizes = []

        def forward(self, batch):
            assert not self.training
            self.sizes.append(len(batch))
            return batch.float().sum(1, keepdim=True)

    module = Sum(2, 1).train()
    outputs = predict(module, np.load(tmp_path / "rows.npy", mmap_mode="r"), ["sum"])
    np.testing.assert_array_equal(outputs["sum"][:, 0], rows.astype(float).sum(1))
    assert Sum.sizes == [512, 512, 176]
    assert module.training
