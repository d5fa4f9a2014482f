"""Architectures that nobody here wrote, as MODEL files that a user would write: small, random weights that decay."""

from __future__ import annotations

from dataclasses import dataclass

HEAD = '''"""{name} of {package}, small, with random weights whose spectra decay."""
import torch
{imports}


def decaying(net):
    """Weights with singular values that fall off, as those of trained nets do."""
    for module in net.modules():
        weight = getattr(module, "weight", None)
        if isinstance(weight, torch.Tensor) and weight.dim() > 1 and not isinstance(module, torch.nn.Embedding):
            left, values, right = torch.linalg.svd(weight.data.flatten(1), full_matrices=False)
            falling = values[0] * torch.arange(1, len(values) + 1) ** -0.8
            weight.data.copy_((left * falling @ right).reshape(weight.shape))
    return net


def model():
    torch.manual_seed(0)
    return decaying({build})


def example():
    torch.manual_seed(1)
    return {example}
'''

PIXELS = "torch.randn(2, 3, 64, 64)"
IDS = "torch.randint(5, 200, (2, 16))"
IMAGES = f'{{"pixel_values": {PIXELS}}}'
WORDS = f'{{"input_ids": {IDS}, "attention_mask": torch.ones(2, 16, dtype=torch.long)}}'
TEXT = f'{{"input_ids": {IDS}}}'
TO_TEXT = f'{{"input_ids": {IDS}, "decoder_input_ids": {IDS}}}'
SOUND = '{"input_values": torch.randn(2, 4000)}'
SPECTRUM = f'{{"input_features": torch.randn(2, 80, 64), "decoder_input_ids": {IDS}}}'
BLOCKS = "hidden_size=128, num_hidden_layers=2, num_attention_heads=4, intermediate_size=256"


@dataclass(frozen=True)
class Net:
    """An architecture: ``package`` it is of, and the parts of its MODEL file."""

    name: str
    package: str
    imports: str
    build: str
    example: str

    @property
    def text(self) -> str:
        """The MODEL file."""
        return HEAD.format(**self.__dict__)


def of_transformers(kind: str, config: str, example: str, before: str = "") -> Net:
    """A class of transformers, its configuration built by ``config`` ("Kind: arguments")."""
    name, _, arguments = config.partition(":")
    build = f"transformers.{kind}(transformers.{name}({arguments.strip()})).eval()"
    return Net(kind, "transformers", f"import transformers\n{before}".rstrip(), build, example)


def of_torchvision(name: str, arguments: str = "", example: str = PIXELS) -> Net:
    """A function of torchvision.models."""
    build = f"torchvision.models.{name}(weights=None{', ' if arguments else ''}{arguments})"
    if name.startswith("segmentation"):
        build = build.replace("weights=None", "weights=None, weights_backbone=None")
    return Net(name.rpartition(".")[2], "torchvision", "import torchvision", build, example)


NETS = (
    of_transformers(
        "ResNetForImageClassification",
        'ResNetConfig: embedding_size=32, hidden_sizes=[64, 128], depths=[2, 2], layer_type="basic"',
        IMAGES,
    ),
    of_transformers(
        "MobileNetV1ForImageClassification", "MobileNetV1Config: image_size=64, depth_multiplier=0.5", IMAGES
    ),
    of_transformers(
        "MobileNetV2ForImageClassification", "MobileNetV2Config: image_size=64, depth_multiplier=0.5", IMAGES
    ),
    of_transformers(
        "EfficientNetForImageClassification",
        "EfficientNetConfig: image_size=64, width_coefficient=0.5, depth_coefficient=0.3, hidden_dim=640",
        IMAGES,
    ),
    of_transformers(
        "RegNetForImageClassification",
        "RegNetConfig: embedding_size=32, hidden_sizes=[64, 128], depths=[2, 2], groups_width=16",
        IMAGES,
    ),
    of_transformers(
        "ConvNextForImageClassification",
        "ConvNextConfig: hidden_sizes=[32, 64, 128, 128], depths=[1, 1, 2, 1], image_size=64",
        IMAGES,
    ),
    of_transformers(
        "ConvNextV2ForImageClassification",
        "ConvNextV2Config: hidden_sizes=[32, 64, 128, 128], depths=[1, 1, 2, 1], image_size=64",
        IMAGES,
    ),
    of_transformers("ViTForImageClassification", f"ViTConfig: {BLOCKS}, image_size=64, patch_size=16", IMAGES),
    of_transformers("DeiTForImageClassification", f"DeiTConfig: {BLOCKS}, image_size=64, patch_size=16", IMAGES),
    of_transformers("BeitForImageClassification", f"BeitConfig: {BLOCKS}, image_size=64, patch_size=16", IMAGES),
    of_transformers(
        "Dinov2ForImageClassification",
        "Dinov2Config: hidden_size=128, num_hidden_layers=2, num_attention_heads=4, image_size=64, patch_size=16",
        IMAGES,
    ),
    of_transformers(
        "SwinForImageClassification",
        "SwinConfig: image_size=64, patch_size=4, embed_dim=32, depths=[2, 2], num_heads=[2, 4], window_size=4",
        IMAGES,
    ),
    of_transformers(
        "Swinv2ForImageClassification",
        "Swinv2Config: image_size=64, patch_size=4, embed_dim=32, depths=[2, 2], num_heads=[2, 4], window_size=4",
        IMAGES,
    ),
    of_transformers(
        "SegformerForSemanticSegmentation",
        "SegformerConfig: depths=[1, 1, 1, 1], hidden_sizes=[32, 64, 64, 128], decoder_hidden_size=64",
        IMAGES,
    ),
    of_transformers(
        "MobileViTForImageClassification",
        "MobileViTConfig: image_size=64, hidden_sizes=[64, 80, 96], neck_hidden_sizes=[16, 32, 32, 48, 64, 80, 160]",
        IMAGES,
    ),
    of_transformers(
        "MobileViTV2ForImageClassification", "MobileViTV2Config: image_size=64, width_multiplier=0.5", IMAGES
    ),
    of_transformers(
        "LevitForImageClassification",
        "LevitConfig: image_size=64, hidden_sizes=[64, 96, 128], num_attention_heads=[2, 3, 4], depths=[1, 1, 1], "
        "key_dim=[16, 16, 16]",
        IMAGES,
    ),
    of_transformers(
        "PoolFormerForImageClassification",
        "PoolFormerConfig: depths=[1, 1, 1, 1], hidden_sizes=[32, 64, 64, 128]",
        IMAGES,
    ),
    of_transformers(
        "CvtForImageClassification", "CvtConfig: embed_dim=[32, 64, 128], num_heads=[1, 2, 4], depth=[1, 2, 3]", IMAGES
    ),
    of_transformers(
        "PvtForImageClassification",
        "PvtConfig: image_size=64, hidden_sizes=[32, 64, 64, 128], depths=[1, 1, 1, 1], "
        "num_attention_heads=[1, 2, 4, 8]",
        IMAGES,
    ),
    of_transformers(
        "DetrForObjectDetection",
        "DetrConfig: use_timm_backbone=False, use_pretrained_backbone=False, backbone=None, d_model=64, "
        "encoder_layers=2, decoder_layers=2, encoder_ffn_dim=128, decoder_ffn_dim=128, encoder_attention_heads=4, "
        "decoder_attention_heads=4, num_queries=10, backbone_config=transformers.ResNetConfig(embedding_size=32, "
        'hidden_sizes=[64, 128], depths=[1, 1], layer_type="basic", out_features=["stage2"])',
        IMAGES,
    ),
    of_transformers(
        "YolosForObjectDetection",
        f"YolosConfig: {BLOCKS}, image_size=[64, 64], patch_size=16, num_detection_tokens=10",
        IMAGES,
    ),
    of_transformers("BertForSequenceClassification", f"BertConfig: {BLOCKS}, vocab_size=200", WORDS),
    of_transformers("BertModel", f"BertConfig: {BLOCKS}, vocab_size=200", WORDS),
    of_transformers(
        "DistilBertForSequenceClassification",
        "DistilBertConfig: dim=128, n_layers=2, n_heads=4, hidden_dim=256, vocab_size=200",
        WORDS,
    ),
    of_transformers("RobertaForSequenceClassification", f"RobertaConfig: {BLOCKS}, vocab_size=200", WORDS),
    of_transformers("AlbertForMaskedLM", f"AlbertConfig: {BLOCKS}, vocab_size=200, embedding_size=64", WORDS),
    of_transformers("ElectraForSequenceClassification", f"ElectraConfig: {BLOCKS}, vocab_size=200", WORDS),
    of_transformers("MPNetModel", f"MPNetConfig: {BLOCKS}, vocab_size=200", WORDS),
    of_transformers("DebertaV2ForSequenceClassification", f"DebertaV2Config: {BLOCKS}, vocab_size=200", WORDS),
    of_transformers("GPT2LMHeadModel", "GPT2Config: n_embd=128, n_layer=2, n_head=4, vocab_size=200", TEXT),
    of_transformers(
        "OPTForCausalLM",
        "OPTConfig: hidden_size=128, num_hidden_layers=2, num_attention_heads=4, ffn_dim=256, vocab_size=200, "
        "word_embed_proj_dim=128",
        WORDS,
    ),
    of_transformers("LlamaForCausalLM", f"LlamaConfig: {BLOCKS}, vocab_size=200", TEXT),
    of_transformers("MistralForCausalLM", f"MistralConfig: {BLOCKS}, num_key_value_heads=2, vocab_size=200", TEXT),
    of_transformers("Qwen2ForCausalLM", f"Qwen2Config: {BLOCKS}, num_key_value_heads=2, vocab_size=200", TEXT),
    of_transformers(
        "GemmaForCausalLM", f"GemmaConfig: {BLOCKS}, num_key_value_heads=2, head_dim=32, vocab_size=200", TEXT
    ),
    of_transformers("GPTNeoXForCausalLM", f"GPTNeoXConfig: {BLOCKS}, vocab_size=200", TEXT),
    of_transformers(
        "T5ForConditionalGeneration",
        "T5Config: d_model=128, d_kv=32, d_ff=256, num_layers=2, num_heads=4, vocab_size=200",
        TO_TEXT,
    ),
    of_transformers(
        "BartForConditionalGeneration",
        "BartConfig: d_model=128, encoder_layers=2, decoder_layers=2, encoder_attention_heads=4, "
        "decoder_attention_heads=4, encoder_ffn_dim=256, decoder_ffn_dim=256, vocab_size=200",
        TO_TEXT,
    ),
    of_transformers(
        "WhisperForConditionalGeneration",
        "WhisperConfig: d_model=128, encoder_layers=2, decoder_layers=2, encoder_attention_heads=4, "
        "decoder_attention_heads=4, encoder_ffn_dim=256, decoder_ffn_dim=256, vocab_size=200, "
        "max_source_positions=32, pad_token_id=0, bos_token_id=1, eos_token_id=2, decoder_start_token_id=1",
        SPECTRUM,
    ),
    of_transformers(
        "Wav2Vec2ForCTC",
        f"Wav2Vec2Config: {BLOCKS}, vocab_size=32, conv_dim=[64] * 7, num_conv_pos_embeddings=16, "
        "num_conv_pos_embedding_groups=4",
        SOUND,
    ),
    of_transformers(
        "HubertForCTC",
        f"HubertConfig: {BLOCKS}, vocab_size=32, conv_dim=[64] * 7, num_conv_pos_embeddings=16, "
        "num_conv_pos_embedding_groups=4",
        SOUND,
    ),
    of_transformers(
        "CLIPModel",
        f"CLIPConfig: text_config=dict({BLOCKS}, vocab_size=200), vision_config=dict({BLOCKS}, image_size=64, "
        "patch_size=16), projection_dim=64",
        f'{{"input_ids": {IDS}, "pixel_values": {PIXELS}}}',
    ),
    of_transformers(
        "CLIPVisionModelWithProjection",
        f"CLIPVisionConfig: {BLOCKS}, image_size=64, patch_size=16, projection_dim=64",
        IMAGES,
    ),
    of_torchvision("alexnet", example="torch.randn(2, 3, 96, 96)"),
    of_torchvision("resnet18"),
    of_torchvision("mobilenet_v2", "width_mult=0.5"),
    of_torchvision("mobilenet_v3_small"),
    of_torchvision("shufflenet_v2_x0_5"),
    of_torchvision("squeezenet1_1"),
    of_torchvision("densenet121"),
    of_torchvision("googlenet", "aux_logits=False, init_weights=False"),
    of_torchvision("mnasnet0_5"),
    of_torchvision("efficientnet_b0"),
    of_torchvision("regnet_y_400mf"),
    of_torchvision("convnext_tiny"),
    of_torchvision("vit_b_16", "image_size=64"),
    of_torchvision("swin_t"),
    of_torchvision("segmentation.lraspp_mobilenet_v3_large"),
)
