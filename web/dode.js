// The pack's entry in ComfyUI's settings.
import { app } from "../../scripts/app.js";

app.registerExtension({
  name: "dode",
  settings: [
    {
      id: "dode.ksampler",
      name: "Offer `dode` in KSampler's sampler and scheduler lists",
      category: ["D-ODE", "KSampler", "dode"],
      tooltip:
        "The sampler `dode` finds the saved parameters that fit the model, steps and guidance by itself. A change counts after ComfyUI has been restarted.",
      type: "boolean",
      defaultValue: true,
    },
  ],
});
