import time

import pytest
import torch

from lepton_tasks.core.energy import ESTIMATED, MEASURED, WATTS_PER_CORE
from lepton_tasks.training.card import _energy
from lepton_tasks.training.energy import Meter

CPU = torch.device("cpu")


def zone(folder, name, joules, most=1_000):
    folder.mkdir(exist_ok=True, parents=True)
    (folder / "name").write_text(f"{name}\n")
    (folder / "energy_uj").write_text(f"{joules * 1_000_000}\n")
    (folder / "max_energy_range_uj").write_text(f"{most * 1_000_000}\n")


def test_the_counters_of_packages_and_memory_are_added_up_and_may_go_round(tmp_path):
    zone(tmp_path / "intel-rapl:0", "package-0", 900)
    zone(tmp_path / "intel-rapl:0:0", "core", 100)  # a part of the package
    zone(tmp_path / "intel-rapl:0:1", "dram", 10)
    zone(tmp_path / "intel-rapl:1", "psys", 5)  # all of the machine, the package in it
    meter, other = Meter(CPU, zones=tmp_path), Meter(CPU, local_rank=1, zones=tmp_path)
    zone(tmp_path / "intel-rapl:0", "package-0", 80)  # 180 on, past 1,000
    zone(tmp_path / "intel-rapl:0:0", "core", 300)
    zone(tmp_path / "intel-rapl:0:1", "dram", 30)
    assert meter.name == other.name == MEASURED
    assert meter.spent() == pytest.approx(200 / 3600)
    zone(tmp_path / "intel-rapl:0", "package-0", 240)
    assert meter.take() == pytest.approx(360 / 3600)
    assert meter.take() == 0
    assert other.take() == 0  # the machine is counted once


def test_without_counters_cpu_seconds_are_taken_and_the_name_says_so(tmp_path):
    meter, began = Meter(CPU, local_rank=3, zones=tmp_path), time.process_time()
    while time.process_time() - began < 0.05:
        pass
    assert meter.name == ESTIMATED
    assert meter.take() == pytest.approx(0.05 * WATTS_PER_CORE / 3600, rel=0.3)


def test_counters_that_may_not_be_read_are_not_there(tmp_path):
    zone(tmp_path / "intel-rapl:0", "package-0", 900)
    (tmp_path / "intel-rapl:0" / "energy_uj").unlink()  # as a file that may not be read, for root too
    assert Meter(CPU, zones=tmp_path).name == ESTIMATED


@pytest.mark.parametrize(
    ("checkpoint", "told"),
    [
        ({"energy_estimate_wh": 0.1234}, "Training took 0.123 Wh (an estimate at 3.5 W per busy core). "),
        ({"energy_wh": 12.0}, "Training took 12 Wh (the hardware's counters). "),
        ({"processor_energy_wh": 1.0}, "Training took 1 Wh (processor_energy_wh, without the GPU). "),
        ({"seconds": 3.0}, ""),
    ],
)
def test_the_model_card_says_how_the_figure_is_known(checkpoint, told):
    assert _energy(checkpoint) == told
