"""Which modules are taken as models: wrapped ones and other precisions, not sealed, random or broken ones."""

from __future__ import annotations

import re
import warnings

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import TensorDataset

from edgecompress import progress
from edgecompress.calibrating import Calibration
from edgecompress.costs import cost
from edgecompress.decomposing import decompose
from edgecompress.decomposing.refitting import refit
from edgecompress.errors import BudgetError, ModelError, NotExportable, PlanError
from edgecompress.exporting import export
from edgecompress.exporting.probing import check_traceable
from edgecompress.models import Sample
from edgecompress.models.accepting import unwrapped
from edgecompress.planning import Scope, plan
from edgecompress.running import compress, run
from edgecompress.running.options import Options
from edgecompress.running.pipeline import Pipeline
from edgecompress.running.preflight import check
from edgecompress.selectors import Budget
from edgecompress.settings import FineTuning
from tests.nets import Net

X = torch.randn(2, 16, generator=torch.Generator().manual_seed(0))


def base():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(16, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 16)).eval()


def sample_of(build, inputs=(X,), **more):
    return Sample("mine", "mine", build, inputs, **more)


class Holding(nn.Module):
    def __init__(self, inner):
        super().__init__()
        self.inner, self.head = inner, nn.Linear(16, 4)

    def forward(self, x):
        return self.head(self.inner(x))


def compiled():
    return torch.compile(base(), backend="eager")


WRAPPED = {
    "compile": compiled,
    "data parallel": lambda: nn.DataParallel(base()),
    "both": lambda: nn.DataParallel(compiled()),
}


@pytest.mark.parametrize("build", WRAPPED.values(), ids=WRAPPED)
def test_wrappers_are_taken_off_and_leave_no_trace_in_names(build):
    model, calibration = build(), Calibration((torch.randn(32, 16),), classes=False)
    made = plan(model, (X,), Budget(0.6), multiple=4, calibration=calibration)
    assert {layer.name for layer in made.layers} <= {"0", "2", "4"}
    assert made.layers == plan(base(), (X,), Budget(0.6), multiple=4, calibration=calibration).layers
    small = refit(model, made, calibration)
    assert cost(model, (X,)) == cost(base(), (X,))
    assert [name for name, _ in small.named_children()] == ["0", "1", "2", "3", "4"]
    assert decompose(model, made)(X).shape == (2, 16)
    assert isinstance(sample_of(build).model(), nn.Sequential)


def test_wrappers_inside_a_model_are_taken_off_a_copy():
    model = Holding(nn.DataParallel(base()))
    made = plan(model.eval(), (X,), Budget(0.6), multiple=4)
    assert all(layer.name.startswith("inner.") and "module" not in layer.name for layer in made.layers)
    assert decompose(model, made)(X).shape == (2, 4)
    assert isinstance(model.inner, nn.DataParallel)
    assert isinstance(unwrapped(Holding(compiled())).inner, nn.Sequential)


def test_a_model_compiled_in_place_is_run_as_it_was():
    model = base()
    model.compile(backend="eager")
    assert sample_of(lambda: model).model()._compiled_call_impl is None


@pytest.fixture(scope="module")
def quantized():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.ao.quantization.quantize_dynamic(base(), {nn.Linear})


def scripted():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.jit.script(base())


def traced():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.jit.trace(base(), X)


def training_quantized():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = base().train()
        model.qconfig = torch.ao.quantization.get_default_qat_qconfig("fbgemm")
        return torch.ao.quantization.prepare_qat(model).eval()


SEALED = {
    "traced": (traced, "traced by torch.jit"),
    "scripted": (scripted, "scripted or traced by torch.jit"),
    "scripted inside": (lambda: Holding(scripted()), r"torch.jit.*\(its 'inner'\)"),
    "exported": (lambda: torch.export.export(base(), (X,)).module(), "program of torch.export"),
    "a program": (lambda: torch.export.export(base(), (X,)), "program of torch.export"),
    "for training in int8": (training_quantized, "training with quantization"),
    "lazy": (lambda: nn.LazyLinear(4), "have not seen an input"),
    "without numbers": (lambda: base().to("meta"), "meta device"),
}


@pytest.mark.parametrize(("build", "said"), SEALED.values(), ids=SEALED)
def test_a_sealed_model_is_refused_with_the_way_out(build, said):
    with pytest.raises(ModelError) as raised:
        sample_of(build).model()
    assert re.search(said, str(raised.value)), str(raised.value)
    assert "give" in str(raised.value)
    if isinstance(made := build(), nn.Module):
        with pytest.raises(ModelError, match=r"give the torch\.nn\.Module"):
            plan(made, (X,), Budget(0.5))


def test_a_quantized_model_is_refused_with_the_way_out(quantized):
    with pytest.raises(ModelError, match=r"quantized .*export --quantize.*\(its '0'\)"):
        sample_of(lambda: quantized).model()
    with pytest.raises(ModelError, match="is quantized"):
        plan(quantized, (X,), Budget(0.5))


def test_a_graph_of_layers_is_taken():
    made = plan(torch.fx.symbolic_trace(base()), (X,), Budget(0.6), multiple=4)
    assert made.layers


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16], ids=str)
def test_other_precisions_become_float32_with_a_notice(dtype, capsys, monkeypatch):
    monkeypatch.setattr(progress, "_TOLD", set())
    theirs = base().to(dtype)
    sample = sample_of(
        lambda: theirs, (X.to(dtype),), splits=lambda _: TensorDataset(X.to(dtype), torch.tensor([0, 1]))
    )
    model = sample.model()
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    assert (sample.inputs[0].dtype, model(*sample.inputs).dtype) == (torch.float32, torch.float32)
    assert {parameter.dtype for parameter in theirs.parameters()} == {dtype}
    said = capsys.readouterr().err
    kind = str(dtype).removeprefix("torch.")
    assert f"note: mine: its weights in {kind} are taken in float32\n" in said
    assert f"note: mine: its example in {kind} is taken in float32\n" in said
    sample.model()
    assert not capsys.readouterr().err


def test_a_model_in_float64_is_exported_in_float32(tmp_path):
    net = nn.Sequential(nn.Linear(16, 16), nn.PReLU(16)).double().eval()
    artifact = export(net, sample_of(lambda: net, (X.double(),)), tmp_path)
    assert [spec.dtype for spec in (*artifact.inputs, *artifact.outputs)] == ["float32", "float32"]


def counting():
    calls = []

    def forward(net, x):
        calls.append(1)
        return net.fc(x) * len(calls)

    return Net(forward, fc=nn.Linear(16, 4))


class Remembering(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(16, 4)
        self.register_buffer("last", torch.zeros(4))

    def forward(self, x):
        self.last += self.fc(x).mean(0)
        return self.fc(x) + self.last


def dropping():
    return Net(lambda n, x: n.b(F.dropout(n.a(x), 0.5, training=True)), a=nn.Linear(16, 8), b=nn.Linear(8, 4))


UNSTEADY = {
    "dropout": (dropping, "from 'b' on"),
    "noise": (lambda: Net(lambda n, x: n.a(x) + torch.rand(4), a=nn.Linear(16, 4)), "take what is random"),
    "calls": (counting, "take what"),
    "memory": (Remembering, "remembers earlier calls"),
}


@pytest.mark.parametrize(("build", "said"), UNSTEADY.values(), ids=UNSTEADY)
def test_a_model_that_changes_from_call_to_call_is_refused(build, said):
    with pytest.raises(ModelError, match=f"mine: gives other outputs each time.*{said}"):
        sample_of(build).model()


def test_nan_is_refused_with_the_layer_it_comes_from_and_infinity_is_not():
    broken = base()
    broken[2].bias.data[3] = torch.nan
    with pytest.raises(ModelError, match=r"gives NaN on its example \(from '2' on\)"):
        sample_of(lambda: broken).model()
    masked = Net(lambda n, x: n.a(x) - torch.inf, a=nn.Linear(16, 4))
    assert sample_of(lambda: masked).model()(X).isinf().all()


def by_values(net, x):
    return net.b(x) if x.mean() > 0 else net.c(x)


def test_a_model_that_chooses_by_values_is_refused_before_it_is_compressed(tmp_path):
    net = Net(by_values, b=nn.Linear(16, 16), c=nn.Linear(16, 16)).eval()
    sample = sample_of(lambda: net)
    options = Options(Budget(0.9), Scope(multiple=1), tuning=FineTuning(epochs=0))
    for stages in (run, compress):
        said = r"mine: .*PyTorch.*data-dependent.* \(at test_accepting\.py:\d+\); where its code chooses by values"
        with pytest.raises(NotExportable, match=said) as raised:
            stages(sample, tmp_path / "out", options)
        assert raised.value.exit_code == 2
        assert not (tmp_path / "out" / "plan.json").exists()


def test_what_only_torch_export_traces_is_taken():
    def by_shape(net, x):
        return net.a(x) if x.shape[1] == 16 else x

    check_traceable(base(), (X,), "mine")
    check_traceable(Net(by_shape, a=nn.Linear(16, 4)).eval(), (X,), "mine")


def test_a_budget_out_of_reach_is_said_before_the_data_is_asked_for(tmp_path):
    def data(_split):
        raise AssertionError("asked for")

    class Unscored(Pipeline):
        data, data_key = None, []

    options = Options(Budget(0.01))
    with pytest.raises(BudgetError, match=r"keep 0\.01 of the MACs cannot be reached: the smallest candidates keep 0"):
        check(Unscored(sample_of(base, splits=data), tmp_path, options))


def test_a_plan_given_for_a_layer_that_is_looked_at_is_refused_by_the_pipeline(tmp_path):
    model = Net(lambda n, x: n.b(n.a(x)) * n.a.weight.sum(), a=nn.Linear(16, 16), b=nn.Linear(16, 16)).eval()
    plain = Net(lambda n, x: n.b(n.a(x)), a=nn.Linear(16, 16), b=nn.Linear(16, 16)).eval()
    given = plan(plain, (X,), Budget(0.7), multiple=1)
    assert {layer.name for layer in given.layers} == {"a", "b"}
    with pytest.raises(PlanError, match=r"^a: the model reads its weight"):
        check(Pipeline(sample_of(lambda: model), tmp_path, Options(given=given, tuning=FineTuning(epochs=0))))


def of_own_attention():
    class Own(nn.MultiheadAttention):
        def forward(self, *given, **more):
            return super().forward(*given, **more)

    layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True)
    layer.self_attn = Own(16, 2, batch_first=True)
    return layer


def of_own_weight():
    layer = nn.Linear(16, 16)
    nn.utils.parametrize.register_parametrization(layer, "weight", nn.Softmax(0))
    return layer


ALL_DENSE = {
    "parametrized": (of_own_weight, "remove_parametrizations"),
    "transformer": (of_own_attention, "linear1 and 1 more: nn.TransformerEncoderLayer reads its weight directly"),
}


@pytest.mark.parametrize(("build", "said"), ALL_DENSE.values(), ids=ALL_DENSE)
def test_a_model_of_which_nothing_can_be_replaced_says_why_and_the_way_out(build, said):
    with pytest.raises(BudgetError) as raised:
        plan(build().eval(), (torch.randn(2, 5, 16),), Budget(0.5))
    assert "no layer of this model can be replaced (left dense: " in str(raised.value)
    assert said in str(raised.value)
    assert "--keep 1.000" not in str(raised.value)


def test_what_is_wrapped_is_the_model_itself():
    inner = base()
    assert unwrapped(nn.DataParallel(inner)) is inner
    assert unwrapped(inner) is inner
