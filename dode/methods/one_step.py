"""Solvers in σ that use the current step alone: Euler (DDIM), Heun (EDM) and Heun++."""

from dode.methods.assembly import singlestep
from dode.methods.registry import comfyui, k_diffusion, register
from dode.tableau import Array, Row, Tableau, increment


@register(
    "euler",
    aliases=("ddim",),
    convergence={1: 1},
    source="DDIM (Song et al. 2021) in σ coordinates; k-diffusion's sample_euler without churn.",
    stock=(comfyui("sample_euler"), k_diffusion("sample_euler")),
)
def euler(sigmas: Array, order: int, coordinate: str) -> Tableau:
    n = len(sigmas) - 1
    rows = (
        Row(float(sigmas[i + 1]), ((i, increment("data", sigmas[i], sigmas[i + 1])),), evaluate=i + 1 < n) for i in range(n)
    )
    return Tableau(float(sigmas[0]), tuple(rows))


@register(
    "heun",
    aliases=("edm",),
    convergence={2: 2},
    source="EDM algorithm 1 without churn (Karras et al. 2022); k-diffusion's sample_heun. The step to σ = 0 is Euler's.",
    stock=(comfyui("sample_heun"), k_diffusion("sample_heun")),
)
def heun(sigmas: Array, order: int, coordinate: str) -> Tableau:
    def stages(i: int, first: int) -> list[Row]:
        sigma, h = float(sigmas[i + 1]), float(sigmas[i + 1] - sigmas[i])
        return [Row(sigma, ((first, h),), commit=False), Row(sigma, ((first, h / 2), (first + 1, h / 2)))]

    return singlestep(sigmas, "noise", stages)


@register(
    "heunpp2",
    convergence={1: 1},
    directions="noise",
    source="Heun++ of sd-webui-samplers-scheduler; ComfyUI's sample_heunpp2. It looks two steps ahead, weighs by σ over the "
    "first σ of the grid, and takes Heun's stages in the step before the last and Euler's in the last, wherever that ends.",
    stock=(comfyui("sample_heunpp2"),),
)
def heunpp2(sigmas: Array, order: int, coordinate: str) -> Tableau:
    n, top = len(sigmas) - 1, float(sigmas[0])

    def stages(i: int, first: int) -> list[Row]:
        sigma, h = float(sigmas[i + 1]), float(sigmas[i + 1] - sigmas[i])
        predicted = Row(sigma, ((first, h),), commit=False)
        if i + 2 == n:
            w = sigma / (2 * top)
            return [predicted, Row(sigma, ((first, h * (1 - w)), (first + 1, h * w)))]
        ahead = float(sigmas[i + 2])
        second = Row(ahead, ((first, h), (first + 1, ahead - sigma)), commit=False)
        w, v = sigma / (3 * top), ahead / (3 * top)
        return [predicted, second, Row(sigma, ((first, h * (1 - w - v)), (first + 1, h * w), (first + 2, h * v)))]

    return singlestep(sigmas, "noise", stages, euler_at_the_end=True)
