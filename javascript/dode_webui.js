// The button "Distill": the host's own progress bar above its pictures, and the task's name for the call.
function dodeDistill() {
    const task = randomId();
    const pictures = gradioApp().getElementById("dode_pictures");
    requestProgress(task, pictures, null, () => {});
    const values = Array.from(arguments);
    values[0] = task;
    return values;
}
