"""Random fine-tunes, saved by DeepSpeed, converted, loaded by the program that would load them, and compared.

case     -> what a fine-tune is: drawn from a seed, or written down to make one again
models   -> tiny models of many architectures, and of plain torch
adapters -> every kind of PEFT's, what it targets and trains beside
wrappers -> what training code puts around models and inside of them
build    -> the module of a case, the same in every process
make     -> ranks that hand modules to DeepSpeed, give every parameter a value of its own, and save
known    -> what a case is to become
convert  -> the ways in which a checkpoint is converted
judge    -> right, refused or wrong: what transformers, PEFT or torch load of an output against the engine's values
run      -> the command
"""
