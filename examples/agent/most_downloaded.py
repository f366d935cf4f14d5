"""The model with the most downloads for a task, by a tool that asks the Hugging Face Hub."""

from common import arguments, model

from safeexec_agent import CodeAgent, tool

options = arguments(__doc__)


@tool
def model_download_tool(task: str) -> str:
    """
    Returns the name of the model with the most downloads for a task on the Hugging Face Hub.

    Args:
        task: The task for which to find the model, such as 'text-to-video'.
    """
    if not options.online:
        return {"text-to-video": "example-lab/moving-pictures-13b"}.get(task, "no model")
    from huggingface_hub import list_models

    return next(iter(list_models(filter=task, sort="downloads", limit=1))).id


with CodeAgent(tools=[model_download_tool], model=model(options, "most_downloaded"), sandbox=options.sandbox) as agent:
    agent.run(
        "Which model for 'text-to-video' has been downloaded most often from the Hugging Face Hub? I need its name."
    )
