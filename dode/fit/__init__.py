"""The fit of all numbers of a sampler at once, to where the teacher ends.

``students`` is the way in. It runs the teacher (``teacher_path``), ranks undistilled solvers on its path to set out from one
(``starts``), and fits its numbers (``free_parameters``) by Gauss-Newton over a growing number of samples (``gauss_newton``),
with derivatives of where a sampler ends (``end_point``). Held-out samples judge (``held_out``), and samples that end in another
picture count little (``outliers``).
"""
