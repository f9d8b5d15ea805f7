"""`shibolet launch`: files that Slurm and SkyPilot take, and that do what they say."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from slurm import IS_HERE, cluster, free_ports, run

sys.path.insert(0, str(Path(__file__).parents[1] / "train"))
from train_command import prepared, rows, save_recipe

from shibolet.rounds.launching import PORT

SBATCH = ("hear.sbatch", "prepare.sbatch", "train.sbatch", "evaluate.sbatch")
SKY_PYTHON = os.environ.get("SHIBOLET_SKY_PYTHON")  # of an environment with skypilot, which pins what ours does not


@pytest.fixture
def written(run_cli, tmp_path: Path):
    """Writes the files with these options; the folder."""

    def write(recipe: str, *options: str) -> Path:
        code, _, errors = run_cli("launch", recipe, "--to", str(tmp_path / "out"), *options)
        assert code == 0, errors
        return tmp_path / "out"

    return write


def test_scripts_are_bash_and_explain_every_line(written):
    """Protects from a setting that nobody knows the reason of: a comment stands over it, or over its group."""
    out = written("hebrew-round2", "--slurm", "--hear", "6", "--nodes", "2", "--gpus", "4", "--gpu", "a100")
    for name in (*SBATCH, "submit.sh"):
        done = subprocess.run(["bash", "-n", out / name], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        lines = (out / name).read_text().splitlines()
        assert sum(line.startswith("# ") for line in lines) > 5 and all(len(line) <= 120 for line in lines)
    hear, train = (out / "hear.sbatch").read_text(), (out / "train.sbatch").read_text()
    assert "#SBATCH --array=1-6\n" in hear and '--shard "$SLURM_ARRAY_TASK_ID/6"' in hear
    assert "#SBATCH --nodes=2\n" in train and "#SBATCH --gpus-per-node=a100:4\n" in train and "--gpus 4 " in train


PLACE = "s3://speech/runs/mine"


def test_every_job_goes_on_from_the_store(written):
    """Protects from one command without the mirror: of a machine that is taken away only that stays."""
    out = written("hebrew-round2", "--slurm", "--nodes", "2", "--gpus", "4", "--mirror", PLACE)
    for name in SBATCH:
        script = (out / name).read_text()
        assert subprocess.run(["bash", "-n", out / name]).returncode == 0
        assert all(len(line) <= 120 for line in script.splitlines()) and f"\nMIRROR={PLACE}\n" in script
        commands = [line for line in script.splitlines() if line.startswith("srun ")]
        assert commands and all(' --mirror "$MIRROR"' in line for line in commands)
    assert "export MAIN SHIBOLET RECIPE RUN MIRROR\n" in (out / "train.sbatch").read_text()
    out = written("hebrew-round2", "--slurm", "--nodes", "2")
    assert not any("mirror" in (out / name).read_text().lower() for name in SBATCH)


def test_tasks_of_skypilot_share_a_store_and_no_disk(written, run_cli, tmp_path: Path):
    out = written("hebrew-round2", "--skypilot", "--gpu", "A100", "--nodes", "2", "--mirror", PLACE)
    assert [path.name for path in out.iterdir()] == ["round.yaml"]
    _, *tasks = yaml.safe_load_all((out / "round.yaml").read_text())
    for task in tasks:
        assert "volumes" not in task and "'shibolet[cloud]==" in task["setup"]
        assert subprocess.run(["bash", "-n", "-c", task["run"]], capture_output=True).returncode == 0
        commands = [line for line in task["run"].splitlines() if line.lstrip().startswith("shibolet ")]
        assert commands and all(f" -o runs/hebrew-round2 --mirror {PLACE}" in line for line in commands)
        assert task["resources"]["job_recovery"]["recover_on_exit_codes"] == [75, 76, 143, 60]
    assert all(len(line) <= 120 for line in (out / "round.yaml").read_text().splitlines())
    code, said, _ = run_cli(
        "launch", "hebrew-round2", "--skypilot", "--gpu", "A100", "--to", str(tmp_path / "x"), "--mirror", "gs://b/r"
    )
    assert code == 0 and "volumes" not in said and "==" in (found := (tmp_path / "x" / "round.yaml").read_text())
    assert " gcsfs\n" in found


def test_codes_of_the_gate_are_those_of_the_recipe(written):
    """Protects from a training that begins where the recipe wanted a person to look first."""
    out = written("hebrew-round2", "--slurm")
    assert "\n  0|10) ;;" in (out / "prepare.sbatch").read_text()
    out = written("hebrew-round2", "--slurm", "--set", "gate.on_caution=stop", "--set", "gate.accept=[INVALID]")
    assert "audit merge" not in (out / "prepare.sbatch").read_text(), "it hears nothing that the parts gave up"
    assert "\n  0|30) ;;" in (out / "prepare.sbatch").read_text()


def stub(path: Path, code: int) -> None:
    """A program that writes its arguments down, one a line, and ends with a code."""
    path.write_text(f'#!/bin/bash\nprintf "%s\\n" "$@" >> "{path}.args"\nexit {code}\n')
    path.chmod(0o755)


@pytest.mark.parametrize(
    ("code", "restarts", "requeued", "mirror"),
    [
        (75, 0, True, ()), (76, 1, True, ()), (143, 3, True, ()), (75, 50, False, ()), (3, 0, False, ()),
        (60, 0, False, ()), (60, 0, True, ("--mirror", PLACE)), (75, 0, True, ("--mirror", PLACE)),
    ],
)  # fmt: skip
def test_a_stopped_job_is_queued_again_and_a_failed_one_is_not(
    written, tmp_path: Path, code: int, restarts: int, requeued: bool, mirror: tuple[str, ...]
):
    """Names with blanks and quotes come through as they are: protects from a shell that takes them apart."""
    run_dir, change = tmp_path / "my 'own' run", "title=it's $HOME"
    out = written("hebrew-round2", "--slurm", "--nodes", "2", "-o", str(run_dir), "--set", change, *mirror)
    bin_dir = tmp_path / "bin"
    bin_dir.mkdir()
    stub(bin_dir / "shibolet", code)
    stub(bin_dir / "scontrol", 0)
    (bin_dir / "srun").write_text('#!/bin/bash\n[ "$1" = --wait=120 ] && shift\nSLURM_NODEID=1 exec "$@"\n')
    (bin_dir / "srun").chmod(0o755)
    for name in ("hear.sbatch", "train.sbatch"):
        script = (out / name).read_text().splitlines()
        script = [f"SHIBOLET={bin_dir}/shibolet" if line.startswith("SHIBOLET=") else line for line in script]
        for args in bin_dir.glob("*.args"):
            args.unlink()
        env = {
            "PATH": f"{bin_dir}:{os.environ['PATH']}", "SLURM_JOB_ID": "7", "SLURM_RESTART_COUNT": str(restarts),
            "SLURM_JOB_NUM_NODES": "2", "SLURM_JOB_NODELIST": "n[0-1]",
        }  # fmt: skip
        if name == "hear.sbatch":  # the number of one part is that of the array: it would have all begin again
            env |= {"SLURM_ARRAY_JOB_ID": "7", "SLURM_ARRAY_TASK_ID": "2"}
        done = subprocess.run(["bash", "-c", "\n".join(script)], env=env, capture_output=True, text=True)
        assert done.returncode == code, done.stderr
        given = (bin_dir / "shibolet.args").read_text().splitlines()
        assert given[:2] == [name.partition(".")[0].replace("hear", "audit"), "hebrew-round2"]
        assert given[given.index("--set") + 1] == change and given[given.index("-o") + 1] == str(run_dir)
        assert given[given.index("-o") + 2 :][: len(mirror)] == list(mirror)
        asked, number = bin_dir / "scontrol.args", "7_2" if name == "hear.sbatch" else "7"
        assert (asked.exists() and asked.read_text().endswith(f"requeue\n{number}\n")) is requeued


def test_tasks_of_skypilot_run_one_after_the_other(written, tmp_path: Path):
    out = written("hebrew-round2", "--skypilot", "--gpu", "H100", "--hear", "6", "--nodes", "2", "--gpus", "4")
    first, *tasks = yaml.safe_load_all((out / "round.yaml").read_text())
    assert first == {"name": "shibolet-hebrew-round2"}
    found = [(task["name"], task["num_nodes"], task["resources"]["accelerators"]) for task in tasks]
    assert found == [
        ("hear", 6, "H100:1"), ("prepare", 1, "H100:4"), ("train", 2, "H100:4"), ("evaluate", 1, "H100:1"),
    ]  # fmt: skip
    assert "audit merge" not in tasks[1]["run"], "it hears nothing, and a clip that every part gave up would end it"
    for task in tasks:
        assert task["volumes"] == {"/runs": "shibolet"}
        assert subprocess.run(["bash", "-n", "-c", task["run"]], capture_output=True).returncode == 0


def test_what_cannot_be_written_is_a_sentence(run_cli, tmp_path: Path):
    for options, sentence in (
        ([], "say --slurm or --skypilot"),
        (["--slurm", "--skypilot"], "say --slurm or --skypilot"),
        (["--skypilot"], "name the GPU, as in --gpu A100"),
        (["--slurm", "--to", str(tmp_path / "a b")], "name a folder without blanks"),
        (["--slurm", "--mirror", "runs/mine"], "--mirror runs/mine: write a folder of a store"),
    ):
        code, _, errors = run_cli("launch", "hebrew-round2", *options)
        assert code == 2 and sentence in errors, errors
    assert not any(tmp_path.iterdir())


@pytest.mark.slow("launch", seconds=50)
@pytest.mark.skipif(SKY_PYTHON is None, reason="SHIBOLET_SKY_PYTHON names no Python with skypilot")
def test_skypilot_reads_its_files(written, tmp_path: Path):
    """By its own loader, with its own schema: a key that it does not know is an error there."""
    recipe = save_recipe(tmp_path)
    for name in ("hebrew-round2", str(recipe)):
        out = written(name, "--skypilot", "--gpu", "A100", "--hear", "3", "--nodes", "2", "--gpus", "4")
        code = (
            "import sys; from sky.utils import dag_utils; dag = dag_utils.load_chain_dag_from_yaml(sys.argv[1]); "
            "print(dag.name, [(t.name, t.num_nodes, [str(r) for r in t.resources]) for t in dag.tasks])"
        )
        done = subprocess.run([SKY_PYTHON, "-c", code, out / "round.yaml"], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        assert "('train', 2, " in done.stdout and "{'A100': 4}" in done.stdout


@pytest.mark.slow("launch", seconds=200)
@pytest.mark.skipif(not IS_HERE, reason="no slurmctld here (Debian: slurm-wlm)")
def test_slurm_takes_the_scripts_and_a_stopped_training_goes_on(written, tmp_path: Path):
    """On two nodes of a real slurmctld: told to stop the job ends with 75, is queued again, and trains to the end."""
    recipe, run_dir = save_recipe(tmp_path), prepared(tmp_path / "run")
    changes = ("--set", "train.num_threads=1", "--set", "train.phases.0.num_epochs=20")
    out = written(str(recipe), "--slurm", "--hear", "3", "--nodes", "2", "--gpus", "1", "-o", str(run_dir), *changes)
    (out / "logs").mkdir()
    script = (out / "train.sbatch").read_text().splitlines()  # the names of its nodes are not known here
    script = ["MAIN=127.0.0.1" if line.startswith("MAIN=") else line for line in script]
    (out / "train.sbatch").write_text("\n".join(script).replace(f":{PORT}", f":{free_ports(1)[0]}") + "\n")
    with cluster(tmp_path / "slurm") as env:
        for name in SBATCH:
            assert "to start at" in run(["sbatch", "--test-only", str(out / name)], env)
        job = run(["sbatch", "--parsable", str(out / "train.sbatch")], env)
        wait_for(lambda: len(rows(run_dir)) >= 2, out, job)
        run(["scancel", "--signal=TERM", job], env)  # to the steps, as --signal does
        wait_for(lambda: "Restarts=1" in run(["scontrol", "show", "job", job], env), out, job)
        assert (run_dir / "train" / "PREEMPTED").exists()
        stopped_at = len(rows(run_dir))
        wait_for(lambda: "COMPLETING" not in run(["squeue", "-h", "-j", job, "-o", "%T"], env), out, job)
        run(["scontrol", "update", f"jobid={job}", "starttime=now"], env)  # it would wait for two minutes
        wait_for(lambda: (run_dir / "train" / "result.json").exists(), out, job)
        wait_for(lambda: "JobState=COMPLETED" in run(["scontrol", "show", "job", job], env), out, job)
    assert 2 <= stopped_at < 69 and [row["step"] for row in rows(run_dir)] == list(range(1, 70))


def wait_for(condition, out: Path, job: str, within_s: float = 120.0) -> None:
    deadline = time.monotonic() + within_s
    while not condition():
        log = out / "logs" / f"train-{job}.log"
        assert time.monotonic() < deadline, log.read_text() if log.exists() else "the job has printed nothing"
        time.sleep(0.3)
