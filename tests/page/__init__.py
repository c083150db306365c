"""The pack's page in a real browser: Chromium, driven by Playwright, on a real ComfyUI with its real page."""
