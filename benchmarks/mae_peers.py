"""The other ways to compute MAE's loss that `train_step.py` measures ours against."""

import tempfile
from pathlib import Path

import torch
from torch import Tensor, nn

from mae.interchange import convert
from mae.methods.mae import MAE


class Textbook(nn.Module):
    """MAE as its paper tells it, on timm's blocks: embed all, shuffle, drop, unshuffle, predict all."""

    def __init__(self, method: MAE, mask_ratio: float) -> None:
        super().__init__()
        self.method, self.mask_ratio = method, mask_ratio

    def forward(self, images: Tensor, noise: Tensor) -> Tensor:
        vit, decoder = self.method.encoder, self.method.decoder
        tokens = vit.patch_embed(images) + vit.pos_embed[:, 1:]
        n, length, width = tokens.shape
        kept = int(length * (1 - self.mask_ratio))
        shuffle = torch.argsort(noise, dim=1)
        restore = torch.argsort(shuffle, dim=1)
        tokens = torch.gather(tokens, 1, shuffle[:, :kept, None].repeat(1, 1, width))
        mask = torch.ones(n, length, device=images.device)
        mask[:, :kept] = 0
        mask = torch.gather(mask, 1, restore)
        first = (vit.cls_token + vit.pos_embed[:, :1]).expand(n, -1, -1)
        latents = decoder.embed(vit.norm(vit.blocks(torch.cat([first, tokens], 1))))
        hidden = decoder.mask_token.repeat(n, length - kept, 1)
        full = torch.cat([latents[:, 1:], hidden.to(latents.dtype)], 1)
        full = torch.gather(full, 1, restore[:, :, None].repeat(1, 1, full.shape[-1]))
        full = torch.cat([latents[:, :1], full], 1) + decoder.pos_embed
        predicted = decoder.pred(decoder.norm(decoder.blocks(full)))[:, 1:]
        rows, columns = vit.patch_embed.patch_size
        h, w = vit.patch_embed.grid_size
        target = images.reshape(n, vit.in_chans, h, rows, w, columns).permute(0, 2, 4, 3, 5, 1)
        target = target.reshape(n, length, -1)
        target = (target - target.mean(-1, keepdim=True)) / (target.var(-1, keepdim=True) + 1e-6) ** 0.5
        return (((predicted.float() - target) ** 2).mean(-1) * mask).sum() / mask.sum()


class HuggingFace(nn.Module):
    """transformers' ViTMAE with the same weights."""

    def __init__(self, method: MAE, mask_ratio: float) -> None:
        super().__init__()
        from transformers import ViTMAEConfig, ViTMAEForPreTraining

        vit, decoder = method.encoder, method.decoder
        config = ViTMAEConfig(
            hidden_size=vit.embed_dim,
            num_hidden_layers=len(vit.blocks),
            num_attention_heads=vit.blocks[0].attn.num_heads,
            intermediate_size=vit.blocks[0].mlp.fc1.out_features,
            layer_norm_eps=1e-6,
            image_size=vit.patch_embed.img_size[0],
            patch_size=vit.patch_embed.patch_size[0],
            decoder_hidden_size=decoder.embed.out_features,
            decoder_num_hidden_layers=len(decoder.blocks),
            decoder_num_attention_heads=decoder.blocks[0].attn.num_heads,
            decoder_intermediate_size=decoder.blocks[0].mlp.fc1.out_features,
            mask_ratio=mask_ratio,
            norm_pix_loss=True,
            attn_implementation="sdpa",
        )
        weights = {name: value.contiguous() for name, value in convert(method.state_dict(), "hf").items()}
        with (
            tempfile.TemporaryDirectory() as folder
        ):  # a file, for each version of transformers renames on loading
            config.save_pretrained(folder)
            torch.save(weights, Path(folder) / "pytorch_model.bin")
            self.peer = ViTMAEForPreTraining.from_pretrained(folder, attn_implementation="sdpa")
        self.peer.train()

    def forward(self, images: Tensor, noise: Tensor) -> Tensor:
        return self.peer(images, noise=noise).loss
