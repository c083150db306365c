"""Stock samplers that are no tables, and why."""

_LIMITS = {
    "euler_ancestral": "euler",
    "dpm_2_ancestral": "dpm_2",
    "dpmpp_2s_ancestral": "dpmpp_2s",
    "dpmpp_sde": "seeds_2",
    "dpmpp_2m_sde": "dpmpp_2m_snr",
    "dpmpp_2m_sde_heun": "dpmpp_2m_heun",
    "dpmpp_3m_sde": "dpmpp_3m",
    "exp_heun_2_x0_sde": "exp_heun_2_x0",
    "res_multistep_ancestral": "res_multistep",
}
_NOISY = ("ddpm", "lcm")


def refusal(name: str) -> str | None:
    """Why a stock sampler of this name cannot be a table; None where the name says nothing of the kind."""
    plain = name.removesuffix("_gpu").removesuffix("_RF")
    if name.startswith("dpm_adaptive"):
        return "it chooses its steps by looking at the data, so it has no fixed grid. Use 'dpm_fast' or 'dpm_3'."
    if "cfg_pp" in name:
        return (
            "CFG++ adds a part of D_cond - D_uncond that depends on the guidance scale, so it is another table at each scale, "
            f"and none where the model gives the guided output alone. Use {_plain_name(plain)!r}: the modes balanced and best "
            "learn a weight of that difference for each step."
        )
    if plain in _LIMITS:
        return f"it adds noise at every step. Its deterministic limit is {_LIMITS[plain]!r}."
    if plain in _NOISY or "ancestral" in name or plain.endswith("_sde"):
        return "it adds noise at every step, so there is no ODE trajectory to follow."
    return None


def _plain_name(name: str) -> str:
    """The solver that a CFG++ sampler is at guidance 1, without its noise."""
    name = name.replace("_cfg_pp", "")
    return _LIMITS.get(name, name)
