"""PyTorch state dicts and safetensors files, in and out."""

from undistillable.interop.files import load, save
from undistillable.interop.state_dicts import from_torch, to_torch

__all__ = ['from_torch', 'load', 'save', 'to_torch']
